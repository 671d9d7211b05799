//! Refuses objects that the kernel or the loader would take wrongly.
//!
//! What is looked for has been met, and none of it shows as an error where it is made: a panic
//! left in ends as a verifier message about the last instruction; a function outside `.text` is
//! called at the wrong address, because the loader finds functions by address without regard to
//! their section; and without BTF the maps lose their field names and the loader its relocations.

use std::collections::BTreeSet;
use std::fmt;

use anyhow::{Context, Result};
use object::{Endianness, File, Object as _, ObjectSection as _, ObjectSymbol as _};
use object::{RelocationTarget, SectionIndex, SymbolKind};

/// Size of one BPF instruction.
const INSTRUCTION: u64 = 8;

/// What is in an object.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Summary {
    /// Size of the file.
    pub bytes: usize,
    /// The programs, in the order of their sections.
    pub programs: Vec<Program>,
}

/// One program that can be loaded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Program {
    /// Name of its function.
    pub name: String,
    /// Its section, which says where it may be attached.
    pub section: String,
    /// Its length, without the functions that it calls.
    pub instructions: u64,
}

/// Something that must not be in an object, or must be and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// Code that can panic was not optimised away.
    Panics {
        /// The function of `core` that would be called, mangled.
        symbol: String,
        /// Functions that call it, as far as can be told.
        callers: Vec<String>,
    },
    /// A function lies where the loader miscalculates its address.
    StrayFunction {
        /// The function, mangled.
        symbol: String,
        /// Where it lies.
        section: String,
    },
    /// A section is missing.
    NoSection(&'static str),
    /// There is nothing to load.
    NoProgram,
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Panics { symbol, callers } => {
                write!(f, "`{symbol}` is linked in")?;
                if !callers.is_empty() {
                    write!(f, ", called from {}", callers.join(", "))?;
                }
                write!(
                    f,
                    ": something may panic there. Look for an index, slice, division, shift, unwrap or copy of \
                     unequal lengths whose check the compiler could not drop; use `get`, or bound the value first"
                )
            }
            Self::StrayFunction { symbol, section } => write!(
                f,
                "function `{symbol}` is in section `{section}`, where the loader would miscall it: \
                 remove `#[cold]` or `#[link_section]` from it or from what it was made of"
            ),
            Self::NoSection(name) => write!(
                f,
                "there is no section `{name}`: the object was built without `-Cdebuginfo=2` or \
                 `-Clink-arg=--btf`, or the profile strips it (`strip = \"none\"` is needed)"
            ),
            Self::NoProgram => write!(
                f,
                "there is no program in it: every entry point needs `#[xdp]`, `#[classifier]` or the like"
            ),
        }
    }
}

/// Everything that is wrong with an object.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Faults(pub Vec<Fault>);

impl fmt::Display for Faults {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, fault) in self.0.iter().enumerate() {
            let separator = if i == 0 { "" } else { "\n" };
            write!(f, "{separator}- {fault}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Faults {}

/// Checks an object and says what it holds.
pub fn inspect(data: &[u8]) -> Result<Summary> {
    let file = File::parse(data).context("it is not an ELF file")?;
    let functions = functions(&file);
    let mut faults = panics(&file, &functions);
    faults.extend(
        functions
            .iter()
            .filter(|f| f.is_stray())
            .map(|f| Fault::StrayFunction { symbol: f.name.clone(), section: f.section.clone() }),
    );
    for name in [".BTF", ".BTF.ext"] {
        if file.section_by_name(name).is_none() {
            faults.push(Fault::NoSection(name));
        }
    }
    let programs: Vec<_> = functions
        .iter()
        .filter(|f| f.is_program())
        .map(|f| Program {
            name: f.name.clone(),
            section: f.section.clone(),
            instructions: f.size / INSTRUCTION,
        })
        .collect();
    if programs.is_empty() {
        faults.push(Fault::NoProgram);
    }
    if faults.is_empty() { Ok(Summary { bytes: data.len(), programs }) } else { Err(Faults(faults).into()) }
}

struct Function {
    name: String,
    section: String,
    index: SectionIndex,
    address: u64,
    size: u64,
}

impl Function {
    /// Sections that begin with a dot are the compiler's; programs have been given theirs by name.
    fn is_program(&self) -> bool {
        !self.section.starts_with('.')
    }

    fn is_stray(&self) -> bool {
        !self.is_program() && self.section != ".text"
    }

    fn contains(&self, index: SectionIndex, address: u64) -> bool {
        self.index == index && (self.address..self.address + self.size).contains(&address)
    }
}

fn functions(file: &File<'_>) -> Vec<Function> {
    let mut functions: Vec<_> = file
        .symbols()
        .filter(|symbol| symbol.kind() == SymbolKind::Text)
        .filter_map(|symbol| {
            let index = symbol.section_index()?;
            let section = file.section_by_index(index).ok()?.name().ok()?.to_owned();
            let name = symbol.name().ok()?.to_owned();
            Some(Function { name, section, index, address: symbol.address(), size: symbol.size() })
        })
        .collect();
    functions.sort_by_key(|f| (f.index.0, f.address));
    functions
}

/// Mangled names keep the path of the module in both schemes: `4core9panicking`.
fn is_panic(name: &str) -> bool {
    name.contains("4core") && name.contains("9panicking") || name.contains("rust_begin_unwind")
}

fn panics(file: &File<'_>, functions: &[Function]) -> Vec<Fault> {
    let names: BTreeSet<_> =
        file.symbols().filter_map(|symbol| symbol.name().ok()).filter(|name| is_panic(name)).collect();
    let calls = if names.is_empty() { Vec::new() } else { calls(file, functions) };
    names
        .into_iter()
        .map(|name| {
            let callers = calls.iter().filter(|call| call.callee == name && !is_panic(&call.caller));
            let callers: BTreeSet<_> = callers.map(|call| call.caller.clone()).collect();
            Fault::Panics { symbol: name.to_owned(), callers: callers.into_iter().collect() }
        })
        .collect()
}

struct Call {
    caller: String,
    callee: String,
}

/// Calls that the linker left to the loader, which with BPF are all those between functions.
fn calls(file: &File<'_>, functions: &[Function]) -> Vec<Call> {
    let mut calls = Vec::new();
    for section in file.sections() {
        let Ok(code) = section.data() else { continue };
        for (at, relocation) in section.relocations() {
            let Some(caller) = functions.iter().find(|f| f.contains(section.index(), at)) else { continue };
            let RelocationTarget::Symbol(index) = relocation.target() else { continue };
            let Ok(symbol) = file.symbol_by_index(index) else { continue };
            let callee = match symbol.kind() {
                SymbolKind::Section => symbol.section_index().and_then(|index| {
                    let address = call_address(code, at, file.endianness())?;
                    functions.iter().find(|f| f.contains(index, address)).map(|f| f.name.as_str())
                }),
                _ => symbol.name().ok(),
            };
            if let Some(callee) = callee {
                calls.push(Call { caller: caller.name.clone(), callee: callee.to_owned() });
            }
        }
    }
    calls
}

/// Where the call at `at` goes, if the relocation names only the section: its immediate counts
/// instructions from the one before the section's first.
fn call_address(code: &[u8], at: u64, endianness: Endianness) -> Option<u64> {
    let at = usize::try_from(at).ok()?;
    let bytes = code.get(at + 4..at + 8)?.try_into().ok()?;
    let immediate = match endianness {
        Endianness::Little => i32::from_le_bytes(bytes),
        Endianness::Big => i32::from_be_bytes(bytes),
    };
    u64::try_from(i64::from(immediate) + 1).ok()?.checked_mul(INSTRUCTION)
}

#[cfg(test)]
mod tests;
