//! Functions whose type information the kernel refuses, and with it that of the whole object: every argument needs a name
//! (`btf_func_check`, `kernel/bpf/btf.c`). Met with a closure that serves two programs: it is not inlined, and what has captured
//! nothing is an argument without a name.

use anyhow::{Context, Result};
use btf_rs::{Btf, Type};
use fallible_iterator::FallibleIterator as _;

/// The functions with an argument that has no name. `data` is what lies in the section `.BTF`.
pub(super) fn unnamed_arguments(data: &[u8]) -> Result<Vec<String>> {
    let btf = Btf::from_bytes(data).context("its BTF cannot be read")?;
    let mut found = Vec::new();
    let mut types = btf.type_iter();
    while let Some(kind) = types.next()? {
        let Type::Func(function) = kind else { continue };
        let Type::FuncProto(prototype) = btf.resolve_chained_type(&function)? else { continue };
        let unnamed = |argument| btf.resolve_name(argument).map_or(true, |name| name.is_empty());
        if prototype.parameters.iter().any(|argument| !argument.is_variadic() && unnamed(argument)) {
            found.push(btf.resolve_name(&function)?);
        }
    }
    Ok(found)
}
