//! Refuses objects that the kernel or the loader would take wrongly.
//!
//! What is looked for has been met, and none of it shows as an error where it is made: a panic
//! left in ends as a verifier message about the last instruction; a function outside `.text` is
//! called at the wrong address, because the loader finds functions by address without regard to
//! their section; without BTF, or with some that the kernel refuses, the maps lose their field names and the loader its
//! relocations; and a chain of calls that takes too much of the stack is refused by the verifier of some kernels only.

mod btf;
pub mod stack;

use std::collections::{BTreeSet, HashMap};
use std::fmt;

use anyhow::{Context, Result};
use object::{Endianness, File, Object as _, ObjectSection as _, ObjectSymbol as _};
use object::{Relocation, RelocationTarget, SectionIndex, SymbolIndex, SymbolKind};

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
    /// What it takes of the stack with everything that it calls.
    pub stack: stack::Depth,
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
    /// A chain of calls takes more of the stack than there is.
    StackTooDeep {
        /// The program.
        program: String,
        /// Its deepest chain.
        depth: stack::Depth,
    },
    /// An argument without a name, for which the kernel refuses the BTF of the whole object.
    UnnamedArgument {
        /// The function, mangled.
        symbol: String,
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
            Self::StackTooDeep { program, depth } => write!(
                f,
                "program `{program}` takes {depth}\n  Make steps of the chain follow each other, or keep what they \
                 work on in a per-CPU map"
            ),
            Self::UnnamedArgument { symbol } => write!(
                f,
                "function `{symbol}` has an argument without a name, for which the kernel refuses the type information of the whole \
                 object: a closure that serves two programs is such a function, give each its own"
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
        self.0.iter().try_for_each(|fault| write!(f, "\n- {fault}"))
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
            // A panic is reported already, and goes away with its cause.
            .filter(|f| f.is_stray() && !is_panic(&f.name))
            .map(|f| Fault::StrayFunction { symbol: f.name.clone(), section: f.section.clone() }),
    );
    for name in [".BTF", ".BTF.ext"] {
        if file.section_by_name(name).is_none() {
            faults.push(Fault::NoSection(name));
        }
    }
    if let Some(section) = file.section_by_name(".BTF") {
        let unnamed = btf::unnamed_arguments(section.data()?)?;
        faults.extend(unnamed.into_iter().map(|symbol| Fault::UnnamedArgument { symbol }));
    }
    let mut depths = stack::depths(&file, &functions);
    let programs: Vec<_> = functions
        .iter()
        .filter(|f| f.is_program())
        .map(|f| Program {
            name: f.name.clone(),
            section: f.section.clone(),
            instructions: f.size / INSTRUCTION,
            stack: depths.remove(&f.name).unwrap_or_default(),
        })
        .collect();
    faults.extend(
        programs.iter().filter(|program| program.stack.bytes > stack::LIMIT).map(|program| {
            Fault::StackTooDeep { program: program.name.clone(), depth: program.stack.clone() }
        }),
    );
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
    let mut faults = Vec::new();
    for name in names {
        let callers: BTreeSet<_> = calls.iter().filter(|call| call.callee == name).collect();
        let (inner, outer): (Vec<_>, Vec<_>) = callers.into_iter().partition(|call| is_panic(&call.caller));
        // What only other panics call goes away with them.
        if inner.is_empty() || !outer.is_empty() {
            let callers = outer.into_iter().map(|call| call.caller.clone()).collect();
            faults.push(Fault::Panics { symbol: name.to_owned(), callers });
        }
    }
    faults
}

#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Call {
    caller: String,
    callee: String,
}

/// Calls between functions: instruction `0x85` with source register 1.
fn calls(file: &File<'_>, functions: &[Function]) -> Vec<Call> {
    let mut calls = Vec::new();
    for section in file.sections() {
        let Ok(code) = section.data() else { continue };
        let relocations: HashMap<_, _> = section.relocations().collect();
        for (at, instruction) in
            (0..).step_by(INSTRUCTION as usize).zip(code.chunks_exact(INSTRUCTION as usize))
        {
            let Some(caller) = functions.iter().find(|f| f.contains(section.index(), at)) else { continue };
            let Some(immediate) = call_immediate(instruction, file.endianness()) else { continue };
            let callee = match relocations.get(&at).map(Relocation::target) {
                Some(RelocationTarget::Symbol(index)) => callee(file, functions, index, immediate),
                // Within a section nothing is left to relocate: the distance from the next instruction.
                _ => {
                    function_at(functions, section.index(), at as i64 + (immediate + 1) * INSTRUCTION as i64)
                }
            };
            if let Some(callee) = callee {
                calls.push(Call { caller: caller.name.clone(), callee });
            }
        }
    }
    calls
}

fn call_immediate(instruction: &[u8], endianness: Endianness) -> Option<i64> {
    let [0x85, registers, _, _, immediate @ ..] = instruction else { return None };
    let immediate: [u8; 4] = immediate.try_into().ok()?;
    let (source, immediate) = match endianness {
        Endianness::Little => (registers >> 4, i32::from_le_bytes(immediate)),
        Endianness::Big => (registers & 0xf, i32::from_be_bytes(immediate)),
    };
    (source == 1).then_some(i64::from(immediate))
}

fn callee(file: &File<'_>, functions: &[Function], index: SymbolIndex, immediate: i64) -> Option<String> {
    let symbol = file.symbol_by_index(index).ok()?;
    match symbol.kind() {
        // Instructions from the one before the section's first.
        SymbolKind::Section => {
            function_at(functions, symbol.section_index()?, (immediate + 1) * INSTRUCTION as i64)
        }
        _ => symbol.name().ok().map(str::to_owned),
    }
}

fn function_at(functions: &[Function], section: SectionIndex, address: i64) -> Option<String> {
    let address = u64::try_from(address).ok()?;
    functions.iter().find(|f| f.contains(section, address)).map(|f| f.name.clone())
}

#[cfg(test)]
mod tests;
