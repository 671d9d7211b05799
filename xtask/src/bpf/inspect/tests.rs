//! Objects made by hand: a sound one, and one for each fault.

use std::collections::HashMap;

use object::write::{self, Object, SectionId, Symbol, SymbolId, SymbolSection};
use object::{Architecture, BinaryFormat, RelocationFlags, SectionKind, SymbolFlags, SymbolScope, elf};

use super::*;

const CALL: [u8; 8] = [0x85, 0x10, 0, 0, 0xff, 0xff, 0xff, 0xff];
const EXIT: [u8; 8] = [0x95, 0, 0, 0, 0, 0, 0, 0];
const PANIC: &str = "_ZN4core9panicking18panic_bounds_check17h0123456789abcdefE";

struct Elf {
    object: Object<'static>,
    sections: HashMap<&'static str, SectionId>,
}

impl Elf {
    fn empty() -> Self {
        let object = Object::new(BinaryFormat::Elf, Architecture::Bpf, Endianness::Little);
        Self { object, sections: HashMap::new() }
    }

    fn with_btf() -> Self {
        let mut elf = Self::empty();
        for name in [".BTF", ".BTF.ext"] {
            let id = elf.section(name, SectionKind::Debug);
            elf.object.append_section_data(id, &[0; 8], 8);
        }
        elf
    }

    /// One program of two instructions, and nothing to complain about.
    fn sound() -> Self {
        let mut elf = Self::with_btf();
        elf.function("xdp", "vpnat_xdp", &[EXIT, EXIT]);
        elf
    }

    fn section(&mut self, name: &'static str, kind: SectionKind) -> SectionId {
        let object = &mut self.object;
        *self.sections.entry(name).or_insert_with(|| object.add_section(Vec::new(), name.into(), kind))
    }

    fn function(&mut self, section: &'static str, name: &str, code: &[[u8; 8]]) -> SymbolId {
        let id = self.section(section, SectionKind::Text);
        let value = self.object.append_section_data(id, code.as_flattened(), 8);
        self.object.add_symbol(Symbol {
            name: name.into(),
            value,
            size: code.as_flattened().len() as u64,
            kind: SymbolKind::Text,
            scope: SymbolScope::Linkage,
            weak: false,
            section: SymbolSection::Section(id),
            flags: SymbolFlags::None,
        })
    }

    fn relocate_call(&mut self, section: &'static str, offset: u64, symbol: SymbolId) {
        let id = self.section(section, SectionKind::Text);
        let flags = RelocationFlags::Elf { r_type: elf::R_BPF_64_32 };
        self.object
            .add_relocation(id, write::Relocation { offset, symbol, addend: 0, flags })
            .expect("a relocation that the format has");
    }

    fn inspect(self) -> Result<Summary> {
        inspect(&self.object.write().expect("an ELF file"))
    }

    fn faults(self) -> Vec<Fault> {
        let error = self.inspect().expect_err("the object should have been refused");
        error.downcast::<Faults>().expect("faults, not another error").0
    }
}

#[test]
fn a_sound_object_passes_and_is_listed() {
    let mut elf = Elf::sound();
    elf.function("classifier", "vpnat_egress", &[EXIT]);
    elf.function(".text", "memcpy", &[EXIT]);
    let summary = elf.inspect().expect("the object is sound");
    let listed: Vec<_> =
        summary.programs.iter().map(|p| (p.section.as_str(), p.name.as_str(), p.instructions)).collect();
    assert_eq!(listed, [("xdp", "vpnat_xdp", 2), ("classifier", "vpnat_egress", 1)]);
}

#[test]
fn a_panic_is_refused_and_its_caller_named() {
    let mut elf = Elf::sound();
    let panic = elf.function(".text", PANIC, &[EXIT]);
    elf.function("classifier", "vpnat_egress", &[EXIT, CALL, EXIT]);
    elf.relocate_call("classifier", 8, panic);
    let faults = elf.faults();
    let expected = Fault::Panics { symbol: PANIC.to_owned(), callers: vec!["vpnat_egress".to_owned()] };
    assert_eq!(faults, [expected]);
    assert!(faults[0].to_string().contains("called from vpnat_egress"), "{}", faults[0]);
}

#[test]
fn a_call_by_section_and_immediate_is_followed() {
    let mut elf = Elf::sound();
    elf.function(".text", "memcpy", &[EXIT, EXIT]);
    elf.function(".text", PANIC, &[EXIT]);
    let mut call = CALL;
    // The third instruction of the section, counted from the one before the first.
    call[4..].copy_from_slice(&1_i32.to_le_bytes());
    elf.function("classifier", "vpnat_egress", &[call, EXIT]);
    let text = elf.sections[".text"];
    let text = elf.object.section_symbol(text);
    elf.relocate_call("classifier", 0, text);
    let expected = Fault::Panics { symbol: PANIC.to_owned(), callers: vec!["vpnat_egress".to_owned()] };
    assert_eq!(elf.faults(), [expected]);
}

#[test]
fn a_call_within_the_section_is_followed() {
    let mut elf = Elf::sound();
    elf.function(".text.unlikely.", PANIC, &[EXIT]);
    let mut back = CALL;
    // From the instruction after the call at 2 to the one at 0.
    back[4..].copy_from_slice(&(-3_i32).to_le_bytes());
    elf.function(".text.unlikely.", "refuse", &[EXIT, back, EXIT]);
    let faults = elf.faults();
    let expected = Fault::Panics { symbol: PANIC.to_owned(), callers: vec!["refuse".to_owned()] };
    assert_eq!(faults[0], expected);
    let stray = Fault::StrayFunction { symbol: "refuse".into(), section: ".text.unlikely.".into() };
    assert_eq!(faults[1..], [stray]);
}

#[test]
fn a_panic_reached_only_from_another_is_not_reported_twice() {
    let mut elf = Elf::sound();
    elf.function(".text", "_ZN4core9panicking9panic_fmt17h0123456789abcdefE", &[EXIT]);
    let mut back = CALL;
    back[4..].copy_from_slice(&(-2_i32).to_le_bytes());
    elf.function(".text", PANIC, &[back, EXIT]);
    assert_eq!(elf.faults(), [Fault::Panics { symbol: PANIC.to_owned(), callers: Vec::new() }]);
}

#[test]
fn both_manglings_of_panics_are_known() {
    for name in [PANIC, "_RNvNtCsabc_4core9panicking5panic", "_RNvCsabc_7___rustc17rust_begin_unwind"] {
        assert!(is_panic(name), "{name}");
    }
    for name in ["memcpy", "vpnat_xdp", "_ZN12vpnat_common4core6expire17h0123456789abcdefE"] {
        assert!(!is_panic(name), "{name}");
    }
}

#[test]
fn a_cold_function_is_refused() {
    let mut elf = Elf::sound();
    elf.function(".text.unlikely.", "refuse", &[EXIT]);
    let faults = elf.faults();
    let expected = Fault::StrayFunction { symbol: "refuse".into(), section: ".text.unlikely.".into() };
    assert_eq!(faults, [expected]);
    assert!(faults[0].to_string().contains("#[cold]"), "{}", faults[0]);
}

#[test]
fn missing_btf_is_refused() {
    let mut elf = Elf::empty();
    elf.function("xdp", "vpnat_xdp", &[EXIT]);
    assert_eq!(elf.faults(), [Fault::NoSection(".BTF"), Fault::NoSection(".BTF.ext")]);
}

#[test]
fn an_object_without_programs_is_refused() {
    let mut elf = Elf::with_btf();
    elf.function(".text", "memcpy", &[EXIT]);
    assert_eq!(elf.faults(), [Fault::NoProgram]);
}

#[test]
fn garbage_is_not_an_object() {
    let error = inspect(b"not an object").expect_err("this is no ELF file");
    assert_eq!(error.to_string(), "it is not an ELF file");
}
