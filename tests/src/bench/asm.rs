//! BPF instructions, written by hand: the bench's own programs are some forty instructions each, and a second
//! compiler run for them would be more to read than they are.

/// A register. `R10` is the frame pointer, `R1` to `R5` are lost in a call, which leaves its result in `R0`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "they have no other names")]
pub enum Reg {
    R0,
    R1,
    R2,
    R3,
    R4,
    R5,
    R6,
    R7,
    R8,
    R9,
    R10,
}

/// How many bytes a load or store moves: the size bits of its opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Size {
    B1 = 0x10,
    B2 = 0x08,
    B4 = 0x00,
    B8 = 0x18,
}

/// Arithmetic on 64 bits: the operation bits of its opcode.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum Op {
    Add = 0x00,
    Sub = 0x10,
    Mul = 0x20,
    And = 0x50,
    Lsh = 0x60,
    Rsh = 0x70,
    Xor = 0xa0,
}

/// Unsigned 64-bit comparisons: the operation bits of a jump.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
#[expect(missing_docs, reason = "the names say it")]
pub enum If {
    Equal = 0x10,
    Greater = 0x20,
    NotEqual = 0x50,
    Less = 0xa0,
}

/// A place to jump to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Label(usize);

/// A program being written.
#[derive(Default)]
pub struct Asm {
    code: Vec<u64>,
    labels: Vec<Option<usize>>,
    jumps: Vec<(usize, Label)>,
}

impl Asm {
    fn emit(&mut self, opcode: u8, dst: Reg, src: u8, offset: i16, imm: i32) -> &mut Self {
        let word = u64::from(opcode)
            | u64::from(dst as u8 | src << 4) << 8
            | u64::from(offset as u16) << 16
            | u64::from(imm as u32) << 32;
        self.code.push(word);
        self
    }

    /// `dst = src`
    pub fn mov(&mut self, dst: Reg, src: Reg) -> &mut Self {
        self.emit(0xbf, dst, src as u8, 0, 0)
    }

    /// `dst = value`
    pub fn set(&mut self, dst: Reg, value: i32) -> &mut Self {
        self.emit(0xb7, dst, 0, 0, value)
    }

    /// `dst = value`, of 64 bits.
    pub fn set64(&mut self, dst: Reg, value: u64) -> &mut Self {
        self.wide(dst, 0, value)
    }

    /// `dst` = the map itself, for a helper.
    pub fn map(&mut self, dst: Reg, fd: i32) -> &mut Self {
        self.wide(dst, 1, fd as u32 as u64)
    }

    /// `dst` = the address of the only value of an array map, `offset` bytes in.
    pub fn map_value(&mut self, dst: Reg, fd: i32, offset: u32) -> &mut Self {
        self.wide(dst, 2, fd as u32 as u64 | u64::from(offset) << 32)
    }

    fn wide(&mut self, dst: Reg, kind: u8, value: u64) -> &mut Self {
        self.emit(0x18, dst, kind, 0, value as u32 as i32);
        self.code.push(value & 0xffff_ffff_0000_0000);
        self
    }

    /// `dst op= value`
    pub fn alu(&mut self, op: Op, dst: Reg, value: i32) -> &mut Self {
        self.emit(0x07 | op as u8, dst, 0, 0, value)
    }

    /// `dst op= src`
    pub fn alu_reg(&mut self, op: Op, dst: Reg, src: Reg) -> &mut Self {
        self.emit(0x0f | op as u8, dst, src as u8, 0, 0)
    }

    /// `dst = *(src + offset)`
    pub fn load(&mut self, size: Size, dst: Reg, src: Reg, offset: i16) -> &mut Self {
        self.emit(0x61 | size as u8, dst, src as u8, offset, 0)
    }

    /// `*(dst + offset) = src`
    pub fn store(&mut self, size: Size, dst: Reg, offset: i16, src: Reg) -> &mut Self {
        self.emit(0x63 | size as u8, dst, src as u8, offset, 0)
    }

    /// `*(dst + offset) = value`
    pub fn store_imm(&mut self, size: Size, dst: Reg, offset: i16, value: i32) -> &mut Self {
        self.emit(0x62 | size as u8, dst, 0, offset, value)
    }

    /// Calls a helper by its number in `include/uapi/linux/bpf.h`.
    pub fn call(&mut self, helper: i32) -> &mut Self {
        self.emit(0x85, Reg::R0, 0, 0, helper)
    }

    /// Ends the program with the result in `R0`.
    pub fn exit(&mut self) -> &mut Self {
        self.emit(0x95, Reg::R0, 0, 0, 0)
    }

    /// A label for [`Asm::here`].
    pub fn label(&mut self) -> Label {
        self.labels.push(None);
        Label(self.labels.len() - 1)
    }

    /// Puts the label here.
    pub fn here(&mut self, label: Label) -> &mut Self {
        self.labels[label.0] = Some(self.code.len());
        self
    }

    /// Jumps if `dst` compares to `value`, sign-extended.
    pub fn jump_if(&mut self, condition: If, dst: Reg, value: i32, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.emit(0x05 | condition as u8, dst, 0, 0, value)
    }

    /// Jumps if `dst` compares to `src`.
    pub fn jump_if_reg(&mut self, condition: If, dst: Reg, src: Reg, to: Label) -> &mut Self {
        self.jumps.push((self.code.len(), to));
        self.emit(0x0d | condition as u8, dst, src as u8, 0, 0)
    }

    /// The instructions, with every jump filled in.
    pub fn finish(mut self) -> Vec<u64> {
        for (at, label) in self.jumps {
            let target = self.labels[label.0].expect("every label has a place");
            let distance = target as i64 - at as i64 - 1;
            let offset = i16::try_from(distance).expect("programs are short");
            self.code[at] |= u64::from(offset as u16) << 16;
        }
        self.code
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_encoded_as_the_kernel_documents_them() {
        let mut asm = Asm::default();
        let end = asm.label();
        asm.set(Reg::R0, 2)
            .jump_if(If::Equal, Reg::R0, 2, end)
            .set64(Reg::R1, 0x1122_3344_5566_7788)
            .here(end)
            .exit();
        let expected = [
            0x0000_0002_0000_00b7, // r0 = 2
            0x0000_0002_0002_0015, // if r0 == 2 goto +2
            0x5566_7788_0000_0118,
            0x1122_3344_0000_0000,
            0x95,
        ];
        assert_eq!(asm.finish(), expected);
    }
}
