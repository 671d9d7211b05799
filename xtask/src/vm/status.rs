//! How a guest says how it ended: by a byte to QEMU's device `isa-debug-exit`, which ends QEMU with
//! `byte * 2 + 1`.

/// The port of the device.
pub const PORT: u8 = 0xf4;

/// What a guest writes when all went well. Not 0: 1 is also the status of QEMU's own errors.
pub const SUCCESS: u8 = 21;

/// What a guest writes when something in it failed.
pub const FAILURE: u8 = 22;

/// How a run ended.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// All went well.
    Passed,
    /// What ran in the guest failed.
    Failed,
    /// The guest or QEMU failed: nothing is known of what ran.
    Machine(String),
}

impl Ending {
    /// From QEMU's exit status. A guest that never said that it was up has not passed, whatever the status.
    pub fn of(code: Option<i32>, booted: bool) -> Self {
        let of_byte = |byte: u8| i32::from(byte) * 2 + 1;
        match code {
            _ if !booted => {
                Self::Machine(format!("the guest did not boot (QEMU ended with {})", shown(code)))
            }
            Some(code) if code == of_byte(SUCCESS) => Self::Passed,
            Some(code) if code == of_byte(FAILURE) => Self::Failed,
            Some(0) => Self::Machine("the guest panicked or powered off".into()),
            _ => Self::Machine(format!("QEMU ended with {}", shown(code))),
        }
    }
}

fn shown(code: Option<i32>) -> String {
    code.map_or_else(|| "a signal".into(), |code| format!("status {code}"))
}

const BASE: u64 = 0x40_0000;
const HEADERS: u16 = 64 + 56;

/// A static x86-64 program that waits until its standard output is written, writes `value` to [`PORT`], and
/// parks. Made by hand, as a compiler for the guest is not needed for anything else.
pub fn program(value: u8) -> Vec<u8> {
    #[rustfmt::skip]
    let code = [
        0xb8, 16, 0, 0, 0,             // mov eax, ioctl
        0xbf, 1, 0, 0, 0,              // mov edi, standard output
        0xbe, 0x09, 0x54, 0, 0,        // mov esi, TCSBRK
        0xba, 1, 0, 0, 0,              // mov edx, 1: wait only
        0x0f, 0x05,                    // syscall
        0xb8, 173, 0, 0, 0,            // mov eax, ioperm
        0xbf, PORT, 0, 0, 0,           // mov edi, the port
        0xbe, 1, 0, 0, 0,              // mov esi, one port
        0xba, 1, 0, 0, 0,              // mov edx, allow
        0x0f, 0x05,                    // syscall
        0xb0, value,                   // mov al, value
        0xe6, PORT,                    // out port, al
        0xb8, 34, 0, 0, 0,             // mov eax, pause
        0x0f, 0x05,                    // syscall
        0xeb, 0xf7,                    // jmp to `mov eax, pause`
    ];
    let size = u64::from(HEADERS) + code.len() as u64;
    let mut elf = Vec::new();
    elf.extend_from_slice(&[0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0]);
    let half = |elf: &mut Vec<u8>, value: u16| elf.extend_from_slice(&value.to_le_bytes());
    let word = |elf: &mut Vec<u8>, value: u32| elf.extend_from_slice(&value.to_le_bytes());
    let long = |elf: &mut Vec<u8>, value: u64| elf.extend_from_slice(&value.to_le_bytes());
    half(&mut elf, 2); // executable
    half(&mut elf, 62); // x86-64
    word(&mut elf, 1); // version
    long(&mut elf, BASE + u64::from(HEADERS)); // entry
    long(&mut elf, 64); // program headers
    long(&mut elf, 0); // no section headers
    word(&mut elf, 0); // flags
    for value in [64, 56, 1, 64, 0, 0] {
        half(&mut elf, value); // sizes and numbers of headers
    }
    word(&mut elf, 1); // to be loaded
    word(&mut elf, 5); // readable, executable
    for value in [0, BASE, BASE, size, size, 0x1000] {
        long(&mut elf, value); // offset, addresses, sizes, alignment
    }
    elf.extend_from_slice(&code);
    elf
}

#[cfg(test)]
mod tests {
    use super::*;
    use object::{Object as _, ObjectSegment as _};

    #[test]
    fn only_the_two_values_tell_of_what_ran() {
        assert_eq!(Ending::of(Some(43), true), Ending::Passed);
        assert_eq!(Ending::of(Some(45), true), Ending::Failed);
        for code in [Some(0), Some(1), Some(41), Some(44), Some(101), None] {
            assert!(matches!(Ending::of(code, true), Ending::Machine(_)), "{code:?}");
        }
    }

    #[test]
    fn a_guest_that_did_not_boot_did_not_pass() {
        for code in [Some(43), Some(45), Some(0), Some(1), None] {
            assert!(matches!(Ending::of(code, false), Ending::Machine(_)), "{code:?}");
        }
    }

    #[test]
    fn the_program_is_an_executable_that_holds_its_value() {
        let bytes = program(SUCCESS);
        let file = object::File::parse(&*bytes).expect("an ELF file");
        assert_eq!(file.architecture(), object::Architecture::X86_64);
        assert_eq!(file.entry(), BASE + u64::from(HEADERS));
        let segment = file.segments().next().expect("a segment");
        assert_eq!((segment.address(), segment.size()), (BASE, bytes.len() as u64));
        assert!(bytes.windows(4).any(|part| part == [0xb0, SUCCESS, 0xe6, PORT]));
        assert_ne!(program(FAILURE), bytes);
    }
}
