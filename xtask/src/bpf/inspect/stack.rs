//! How much of the stack a program takes with everything that it calls, as the verifier counts it
//! (`check_max_stack_depth`, `kernel/bpf/verifier.c`): a chain of calls has 512 bytes, and its limit is a property of
//! how the compiler inlined, so that any change may exceed it.

use std::collections::{BTreeMap, HashMap};
use std::fmt;

use object::{File, Object as _, ObjectSection as _, ObjectSymbol as _};
use object::{Relocation, RelocationTarget, SymbolKind};

use super::{Function, INSTRUCTION, calls, function_at};

/// What a chain of calls may take, bytes (`MAX_BPF_STACK`).
pub const LIMIT: u32 = 512;

/// What a frame is rounded up to, bytes (Linux 6.1; later kernels round to 16 where they compile the program).
const ROUNDING: u32 = 32;

/// Register 10 points to the end of the frame.
const FRAME_POINTER: u8 = 10;

/// A program's deepest chain of calls.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Depth {
    /// What it takes, bytes.
    pub bytes: u32,
    /// The functions, outermost first, each with its frame's size in bytes.
    pub chain: Vec<(String, u32)>,
}

impl fmt::Display for Depth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {LIMIT} bytes of stack", self.bytes)?;
        let readable = |name| format!("{:#}", rustc_demangle::demangle(name));
        self.chain.iter().try_for_each(|(name, bytes)| write!(f, "\n    {bytes:4}  {}", readable(name)))
    }
}

/// The deepest chain of each function, by name.
pub(super) fn depths(file: &File<'_>, functions: &[Function]) -> BTreeMap<String, Depth> {
    let mut graph: HashMap<String, Node> = HashMap::new();
    for function in functions {
        let frame = file
            .section_by_index(function.index)
            .ok()
            .and_then(|section| section.data_range(function.address, function.size).ok().flatten())
            .map_or(0, frame);
        graph.insert(
            function.name.clone(),
            Node { frame: frame.max(1).next_multiple_of(ROUNDING), calls: Vec::new() },
        );
    }
    let direct = calls(file, functions).into_iter().map(|call| (call.caller, call.callee));
    for (caller, callee) in direct.chain(callbacks(file, functions)) {
        if let Some(node) = graph.get_mut(&caller) {
            node.calls.push(callee);
        }
    }
    let mut known = BTreeMap::new();
    for function in functions {
        deepest(&graph, &function.name, &mut known);
    }
    known
}

struct Node {
    frame: u32,
    calls: Vec<String>,
}

fn deepest(graph: &HashMap<String, Node>, name: &str, known: &mut BTreeMap<String, Depth>) -> Depth {
    if let Some(depth) = known.get(name) {
        return depth.clone();
    }
    let Some(node) = graph.get(name) else { return Depth::default() };
    // The verifier refuses recursion; here it only must not go on for ever.
    known.insert(name.to_owned(), Depth::default());
    let below = node.calls.iter().map(|callee| deepest(graph, callee, known)).max_by_key(|depth| depth.bytes);
    let below = below.unwrap_or_default();
    let mut chain = vec![(name.to_owned(), node.frame)];
    chain.extend(below.chain);
    let depth = Depth { bytes: node.frame + below.bytes, chain };
    known.insert(name.to_owned(), depth.clone());
    depth
}

/// How far below the frame pointer a function's code goes, bytes.
fn frame(code: &[u8]) -> u32 {
    let mut lowest = 0;
    // Registers that were set to the frame pointer by the instruction before.
    let mut copy = None;
    for instruction in code.chunks_exact(INSTRUCTION as usize) {
        let [opcode, registers, offset_low, offset_high, immediate @ ..] = instruction else { continue };
        let immediate = immediate.try_into().map_or(0, i32::from_le_bytes);
        let (target, source) = (registers & 0xf, registers >> 4);
        let offset = i32::from(i16::from_le_bytes([*offset_low, *offset_high]));
        let below = match opcode & 7 {
            // Loads, and the two kinds of stores.
            1 if source == FRAME_POINTER => offset,
            2 | 3 if target == FRAME_POINTER => offset,
            // `target += immediate`, 64 bits wide.
            7 if *opcode == 0x07 && copy == Some(target) => immediate,
            _ => 0,
        };
        // `target = source`, 64 bits wide.
        copy = (*opcode == 0xbf && source == FRAME_POINTER).then_some(target);
        lowest = lowest.min(below);
    }
    lowest.unsigned_abs()
}

/// Functions whose address is taken, for a helper to call.
fn callbacks(file: &File<'_>, functions: &[Function]) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for section in file.sections() {
        let Ok(code) = section.data() else { continue };
        for (at, relocation) in section.relocations() {
            let start = at as usize;
            let Some([0x18, _, _, _, immediate @ ..]) = code.get(start..start + INSTRUCTION as usize) else {
                continue;
            };
            let address = immediate.try_into().map_or(0, i32::from_le_bytes);
            let Some(caller) = functions.iter().find(|f| f.contains(section.index(), at)) else { continue };
            if let Some(callee) = target(file, functions, &relocation, i64::from(address)) {
                found.push((caller.name.clone(), callee));
            }
        }
    }
    found
}

fn target(file: &File<'_>, functions: &[Function], relocation: &Relocation, address: i64) -> Option<String> {
    let RelocationTarget::Symbol(index) = relocation.target() else { return None };
    let symbol = file.symbol_by_index(index).ok()?;
    match symbol.kind() {
        SymbolKind::Section => function_at(functions, symbol.section_index()?, address),
        SymbolKind::Text => symbol.name().ok().map(str::to_owned),
        _ => None,
    }
}
