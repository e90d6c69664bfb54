//! What unwinding needs of an ELF file: where its segments lie, and its unwind tables.

use std::{fs::File, os::unix::fs::FileExt as _};

use gimli::{BaseAddresses, EhFrame, EhFrameHdr, LittleEndian, Pointer};

/// A file that claims more headers is no program.
const HEADERS_MAX: u16 = 512;
/// Tables larger than this are not read; frame pointers have to do then.
const TABLES_MAX: u64 = 8 << 20;

/// A part of the file and where it goes in memory.
#[derive(Clone, Copy, Debug)]
struct Segment {
    offset: u64,
    address: u64,
    bytes: u64,
}

/// The unwind tables of a file, and how its offsets become addresses.
pub(super) struct Tables {
    segments: Vec<Segment>,
    header: Vec<u8>,
    frames: Vec<u8>,
    bases: BaseAddresses,
}

impl Tables {
    /// Reads them; `None` where there are none, or they make no sense.
    pub(super) fn read(file: &File) -> Option<Self> {
        let mut head = [0; 64];
        file.read_exact_at(&mut head, 0).ok()?;
        if head.get(..6)? != b"\x7fELF\x02\x01" {
            return None;
        }
        let (at, size, count) = (u64_at(&head, 32)?, u16_at(&head, 54)?, u16_at(&head, 56)?);
        if size != 56 || count > HEADERS_MAX {
            return None;
        }
        let mut headers = vec![0; usize::from(count) * usize::from(size)];
        file.read_exact_at(&mut headers, at).ok()?;
        let mut segments = Vec::new();
        let mut table = None;
        for header in headers.chunks_exact(usize::from(size)) {
            let segment =
                Segment { offset: u64_at(header, 8)?, address: u64_at(header, 16)?, bytes: u64_at(header, 32)? };
            match u32_at(header, 0)? {
                1 => segments.push(segment),
                0x6474_e550 => table = Some(segment),
                _ => {}
            }
        }
        let table = table?;
        let header = read(file, table.offset, table.bytes)?;
        let bases = BaseAddresses::default().set_eh_frame_hdr(table.address);
        let parsed = EhFrameHdr::new(&header, LittleEndian).parse(&bases, 8).ok()?;
        let Pointer::Direct(start) = parsed.eh_frame_ptr() else { return None };
        let around = segments.iter().find(|it| it.holds_address(start))?;
        let skipped = start - around.address;
        let frames = read(file, around.offset.checked_add(skipped)?, around.bytes - skipped)?;
        Some(Self { header, frames, bases: bases.set_eh_frame(start), segments })
    }

    /// The address that an offset in the file goes to, as the file counts addresses.
    pub(super) fn address(&self, offset: u64) -> Option<u64> {
        let segment =
            self.segments.iter().find(|it| offset.checked_sub(it.offset).is_some_and(|in_it| in_it < it.bytes))?;
        segment.address.checked_add(offset - segment.offset)
    }

    /// The header with its sorted table, the frames, and where both lie.
    pub(super) fn sections(
        &self,
    ) -> (EhFrameHdr<gimli::EndianSlice<'_, LittleEndian>>, EhFrame<gimli::EndianSlice<'_, LittleEndian>>, &BaseAddresses)
    {
        (EhFrameHdr::new(&self.header, LittleEndian), EhFrame::new(&self.frames, LittleEndian), &self.bases)
    }

    /// Memory that they take.
    pub(super) const fn bytes(&self) -> usize {
        self.header.len() + self.frames.len()
    }
}

impl Segment {
    const fn holds_address(&self, address: u64) -> bool {
        address >= self.address && address - self.address < self.bytes
    }
}

fn read(file: &File, at: u64, bytes: u64) -> Option<Vec<u8>> {
    if bytes > TABLES_MAX || file.metadata().ok()?.len() < at.checked_add(bytes)? {
        return None;
    }
    let mut buffer = vec![0; usize::try_from(bytes).ok()?];
    file.read_exact_at(&mut buffer, at).ok()?;
    Some(buffer)
}

fn u16_at(bytes: &[u8], at: usize) -> Option<u16> {
    Some(u16::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    Some(u32::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

fn u64_at(bytes: &[u8], at: usize) -> Option<u64> {
    Some(u64::from_le_bytes(*bytes.get(at..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use std::{fs, io::Write as _};

    use gimli::UnwindSection as _;
    use proptest::prelude::*;
    use rustix::fs::{MemfdFlags, memfd_create};

    use super::*;

    fn read_back(bytes: &[u8]) -> Option<Tables> {
        let mut file = File::from(memfd_create("elf", MemfdFlags::CLOEXEC).unwrap());
        file.write_all(bytes).unwrap();
        Tables::read(&file)
    }

    #[test]
    fn a_program_has_tables() {
        let tables = Tables::read(&File::open("/proc/self/exe").unwrap());
        assert!(tables.unwrap().bytes() > 0);
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..300)) {
            read_back(&bytes);
        }

        #[test]
        fn damage_is_read_or_refused(damage in proptest::collection::vec((0_usize..1200, any::<u8>()), 1..8), end in 0_usize..30_000) {
            let mut bytes = fs::read("/usr/bin/env").unwrap();
            bytes.truncate(end.max(2000));
            for (at, byte) in damage {
                bytes[at] = byte;
            }
            if let Some(tables) = read_back(&bytes) {
                let (header, frames, bases) = tables.sections();
                if let Ok(header) = header.parse(bases, 8) {
                    let table = header.table();
                    let _ = table.map(|table| table.fde_for_address(&frames, bases, 0x3000, EhFrame::cie_from_offset));
                }
            }
        }
    }
}
