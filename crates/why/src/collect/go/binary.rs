//! The program's file: sections, segments, symbols. Read piece by piece; a piece larger than the file is refused before
//! memory is taken for it.

use std::{
    collections::HashMap,
    fs::File,
    io::{self, Read as _},
    os::unix::fs::FileExt as _,
};

use flate2::read::ZlibDecoder;
use object::{
    LittleEndian, Pod, ReadCache, elf,
    pod::{from_bytes, slice_from_all_bytes},
    read::elf::{FileHeader as _, ProgramHeader as _, SectionHeader as _, Sym as _},
};

/// Debug information of a program of a gigabyte fits.
const SECTION_MAX: u64 = 512 << 20;
/// A linker makes some thirty.
const HEADERS_MAX: usize = 4096;

/// A program, or something else.
#[derive(Debug)]
pub(super) struct Binary {
    file: File,
    len: u64,
    machine: u16,
    entry: u64,
    fixed: bool,
    sections: Vec<Section>,
    segments: Vec<Segment>,
}

#[derive(Debug)]
struct Section {
    name: String,
    address: u64,
    offset: u64,
    len: u64,
    packed: bool,
}

#[derive(Debug)]
pub(super) struct Segment {
    /// As the file has it, before it is moved to where it is loaded.
    pub(super) address: u64,
    offset: u64,
    in_file: u64,
    pub(super) in_memory: u64,
    pub(super) writable: bool,
    pub(super) executable: bool,
}

impl Binary {
    /// Reads the headers.
    ///
    /// # Errors
    /// As of reading; `InvalidData` where it is no ELF file of 64 bits and little endian.
    pub(super) fn new(file: File) -> io::Result<Self> {
        let invalid = |error: object::Error| io::Error::new(io::ErrorKind::InvalidData, error);
        let len = file.metadata()?.len();
        let cache = ReadCache::new(file.try_clone()?);
        let header = elf::FileHeader64::<LittleEndian>::parse(&cache).map_err(invalid)?;
        let endian = header.endian().map_err(invalid)?;
        let segments = header.program_headers(endian, &cache).map_err(invalid)?;
        let segments = segments.iter().filter(|segment| segment.p_type(endian) == elf::PT_LOAD).take(HEADERS_MAX);
        let segments = segments.map(|segment| Segment {
            address: segment.p_vaddr(endian),
            offset: segment.p_offset(endian),
            in_file: segment.p_filesz(endian),
            in_memory: segment.p_memsz(endian),
            writable: segment.p_flags(endian) & elf::PF_W != 0,
            executable: segment.p_flags(endian) & elf::PF_X != 0,
        });
        let segments = segments.collect();
        // A program without section headers still runs.
        let table = header.sections(endian, &cache).unwrap_or_default();
        let sections = table.iter().take(HEADERS_MAX).filter_map(|section| {
            Some(Section {
                name: String::from_utf8_lossy(table.section_name(endian, section).ok()?).into_owned(),
                address: section.sh_addr(endian),
                offset: section.sh_offset(endian),
                len: if section.sh_type(endian) == elf::SHT_NOBITS { 0 } else { section.sh_size(endian) },
                packed: section.sh_flags(endian) & u64::from(elf::SHF_COMPRESSED) != 0,
            })
        });
        let sections = sections.collect();
        let (machine, entry) = (header.e_machine(endian), header.e_entry(endian));
        let fixed = header.e_type(endian) == elf::ET_EXEC;
        Ok(Self { file, len, machine, entry, fixed, sections, segments })
    }

    pub(super) const fn is_amd64(&self) -> bool {
        self.machine == elf::EM_X86_64
    }

    /// How far from where the file says it was loaded, given where it was entered.
    pub(super) const fn moved_by(&self, entered_at: u64) -> u64 {
        if self.fixed { 0 } else { entered_at.wrapping_sub(self.entry) }
    }

    pub(super) fn segments(&self) -> &[Segment] {
        &self.segments
    }

    fn section(&self, name: &str) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name)
    }

    /// Where a section is loaded, as the file says.
    pub(super) fn section_address(&self, name: &str) -> Option<u64> {
        self.section(name).map(|section| section.address)
    }

    /// A section's contents, unpacked.
    pub(super) fn section_bytes(&self, name: &str) -> Option<Vec<u8>> {
        const HEADER_LEN: usize = size_of::<elf::CompressionHeader64<LittleEndian>>();
        let section = self.section(name)?;
        let bytes = self.read(section.offset, section.len)?;
        if !section.packed {
            return Some(bytes);
        }
        let (header, packed) = bytes.split_at_checked(HEADER_LEN)?;
        let (header, _) = from_bytes::<elf::CompressionHeader64<LittleEndian>>(header).ok()?;
        let len = header.ch_size.get(LittleEndian);
        if header.ch_type.get(LittleEndian) != elf::ELFCOMPRESS_ZLIB || len > SECTION_MAX {
            return None;
        }
        let mut unpacked = Vec::new();
        ZlibDecoder::new(packed).take(len).read_to_end(&mut unpacked).ok()?;
        Some(unpacked)
    }

    /// Bytes by the address that the file gives them.
    pub(super) fn at(&self, address: u64, len: u64) -> Option<Vec<u8>> {
        let end = address.checked_add(len)?;
        let segment = self.segments.iter().find(|segment| {
            let file_end = segment.address.checked_add(segment.in_file);
            segment.address <= address && file_end.is_some_and(|file_end| end <= file_end)
        })?;
        self.read(segment.offset.checked_add(address - segment.address)?, len)
    }

    /// What the file holds of a segment, `at_most` bytes of it.
    pub(super) fn segment_bytes(&self, segment: &Segment, at_most: u64) -> Option<Vec<u8>> {
        self.read(segment.offset, segment.in_file.min(at_most))
    }

    /// The addresses of symbols, as the file has them.
    pub(super) fn symbols<'a>(&self, wanted: &[&'a str]) -> HashMap<&'a str, u64> {
        let mut found = HashMap::new();
        let (Some(symbols), Some(names)) = (self.section_bytes(".symtab"), self.section_bytes(".strtab")) else {
            return found;
        };
        for symbol in slice_of::<elf::Sym64<LittleEndian>>(&symbols) {
            let name = usize::try_from(symbol.st_name(LittleEndian)).ok().and_then(|at| names.get(at..));
            let Some(name) = name else { continue };
            let is = |wanted: &&&str| {
                name.starts_with(wanted.as_bytes()) && name.get(wanted.len()).is_some_and(|end| *end == 0)
            };
            if let Some(wanted) = wanted.iter().find(is) {
                found.insert(*wanted, symbol.st_value(LittleEndian));
            }
        }
        found
    }

    fn read(&self, offset: u64, len: u64) -> Option<Vec<u8>> {
        if len > SECTION_MAX || offset.checked_add(len)? > self.len {
            return None;
        }
        let mut bytes = vec![0; usize::try_from(len).ok()?];
        self.file.read_exact_at(&mut bytes, offset).ok()?;
        Some(bytes)
    }
}

/// As many whole ones as there are.
fn slice_of<T: Pod>(bytes: &[u8]) -> &[T] {
    let whole = bytes.len() - bytes.len() % size_of::<T>().max(1);
    bytes.get(..whole).and_then(|bytes| slice_from_all_bytes(bytes).ok()).unwrap_or_default()
}
