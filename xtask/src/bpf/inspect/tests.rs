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
        Self::with_function_of("argument")
    }

    /// The BTF tells of `fn served(argument: int)`, with that name of the argument.
    fn with_function_of(argument: &'static str) -> Self {
        let mut elf = Self::empty();
        for (name, data) in [(".BTF", &btf_of(argument)), (".BTF.ext", &vec![0; 8])] {
            let id = elf.section(name, SectionKind::Debug);
            elf.object.append_section_data(id, data, 8);
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

/// A header, the types `int`, `fn(int)` and a function of that type, and their names (`include/uapi/linux/btf.h`).
fn btf_of(argument: &str) -> Vec<u8> {
    let names = format!("\0int\0served\0{argument}\0");
    let named = if argument.is_empty() { 0 } else { 12 };
    let (int, prototype, function) = ([1, 1 << 24, 4, 32], [0, 13 << 24 | 1, 0, named, 1], [5, 12 << 24, 2]);
    let types: Vec<u32> = [&int[..], &prototype, &function].concat();
    let header = [0x0001_eb9f, 24, 0, 4 * types.len() as u32, 4 * types.len() as u32, names.len() as u32];
    let words = header.iter().chain(&types).flat_map(|word| word.to_le_bytes());
    words.chain(names.bytes()).collect()
}

#[test]
fn an_argument_without_a_name_is_refused() {
    let mut elf = Elf::with_function_of("");
    elf.function("xdp", "vpnat_xdp", &[EXIT]);
    let faults = elf.faults();
    assert_eq!(faults, [Fault::UnnamedArgument { symbol: "served".into() }]);
    assert!(faults[0].to_string().contains("closure"), "{}", faults[0]);
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

/// `*(u64 *)(r10 - 8 * slots) = 0`.
fn store_below(slots: i16) -> [u8; 8] {
    let [low, high] = (-8 * slots).to_le_bytes();
    [0x7a, 10, low, high, 0, 0, 0, 0]
}

/// A program that calls a function, with so many bytes in the frame of each.
fn chain_of(outer: i16, inner: i16) -> Elf {
    let mut elf = Elf::with_btf();
    let inner = elf.function(".text", "inner", &[store_below(inner / 8), EXIT]);
    elf.function("xdp", "outer", &[store_below(outer / 8), CALL, EXIT]);
    elf.relocate_call("xdp", 8, inner);
    elf
}

#[test]
fn the_stack_of_a_chain_is_that_of_its_frames() {
    let summary = chain_of(200, 40).inspect().expect("the object is sound");
    let depth = &summary.programs[0].stack;
    // Each is rounded up to a multiple of 32.
    assert_eq!(depth.bytes, 224 + 64);
    assert_eq!(depth.chain, [("outer".to_owned(), 224), ("inner".to_owned(), 64)]);
}

#[test]
fn a_chain_that_is_too_deep_is_named() {
    assert!(chain_of(256, 256).inspect().is_ok());
    let faults = chain_of(256, 264).faults();
    let [fault @ Fault::StackTooDeep { program, depth }] = faults.as_slice() else { panic!("{faults:?}") };
    assert_eq!((program.as_str(), depth.bytes), ("outer", 544));
    let text = fault.to_string();
    assert!(text.contains("544 of 512 bytes") && text.contains("inner"), "{text}");
}
