//! Addresses of data that a function's code refers to (amd64): how variables are found in a program without symbols.
//!
//! No disassembler: the encodings that Go's compiler uses for a variable are few, each is known by two or three bytes,
//! and whoever asks accepts only what several of them agree on. What is found is a guess until the memory there has been
//! looked at.

/// How an instruction uses what it refers to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Use {
    /// `lea`: takes the address.
    Address,
    /// `mov`: loads 64 bits.
    Load,
    /// `movslq`: loads 32 bits with a sign.
    LoadSigned,
    /// `incl`: counts 32 bits up.
    Increment,
}

/// A variable, in the order of the code.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Operand {
    pub(super) how: Use,
    pub(super) address: u64,
}

/// All of them in the code at `address`.
pub(super) fn operands(code: &[u8], address: u64) -> Vec<Operand> {
    let mut found = Vec::new();
    for at in 0..code.len() {
        let Some(bytes) = code.get(at..) else { break };
        // 48 and 4c: 64 bits, the second with the upper registers. mod 00, r/m 101: relative to the next instruction.
        let (how, len) = match bytes {
            [0x48 | 0x4c, 0x8d, modrm, ..] if modrm & 0xc7 == 5 => (Use::Address, 7),
            [0x48 | 0x4c, 0x8b, modrm, ..] if modrm & 0xc7 == 5 => (Use::Load, 7),
            [0x48 | 0x4c, 0x63, modrm, ..] if modrm & 0xc7 == 5 => (Use::LoadSigned, 7),
            [0xff, 0x05, ..] => (Use::Increment, 6),
            _ => continue,
        };
        let Some(Ok(offset)) = bytes.get(len - 4..len).map(<[u8; 4]>::try_from) else { continue };
        let next = address.wrapping_add((at + len) as u64);
        found.push(Operand { how, address: next.wrapping_add_signed(i64::from(i32::from_le_bytes(offset))) });
    }
    found
}

/// The first address that is used so, and for which `fits`.
pub(super) fn first(operands: &[Operand], how: Use, mut fits: impl FnMut(u64) -> bool) -> Option<u64> {
    operands.iter().find(|operand| operand.how == how && fits(operand.address)).map(|operand| operand.address)
}

/// The first address that is used so and after which another is, `apart` bytes further.
pub(super) fn pair(operands: &[Operand], how: Use, apart: u64, fits: impl Fn(u64) -> bool) -> Option<u64> {
    first(operands, how, |address| {
        let second = Operand { how, address: address.wrapping_add(apart) };
        fits(address) && fits(second.address) && operands.contains(&second)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn what_the_compiler_writes_is_read() {
        // lea 0x10(%rip),%rax; mov -8(%rip),%rcx; mov 0x0(%rip),%r9; movslq 0x20(%rip),%r8; incl 1(%rip); mov %rax,%rbx
        let code = [
            0x48, 0x8d, 0x05, 0x10, 0, 0, 0, 0x48, 0x8b, 0x0d, 0xf8, 0xff, 0xff, 0xff, 0x4c, 0x8b, 0x0d, 0, 0, 0, 0,
            0x4c, 0x63, 0x05, 0x20, 0, 0, 0, 0xff, 0x05, 1, 0, 0, 0, 0x48, 0x89, 0xc3,
        ];
        let found = operands(&code, 0x1000);
        let expected = [
            (Use::Address, 0x1017),
            (Use::Load, 0x1006),
            (Use::Load, 0x1015),
            (Use::LoadSigned, 0x103c),
            (Use::Increment, 0x1023),
        ];
        assert_eq!(found, expected.map(|(how, address)| Operand { how, address }));
        assert_eq!(first(&found, Use::Load, |address| address > 0x1010), Some(0x1015));
        assert_eq!(pair(&found, Use::Load, 15, |_| true), Some(0x1006));
        assert_eq!(pair(&found, Use::Load, 8, |_| true), None);
    }

    proptest! {
        #[test]
        fn garbage_is_survived(code: Vec<u8>, address: u64) {
            let found = operands(&code, address);
            prop_assert!(found.len() <= code.len());
            pair(&found, Use::Load, 8, |_| true);
        }
    }
}
