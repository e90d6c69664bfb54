//! What a process has mapped to run.

use std::{collections::HashMap, fs::File, os::unix::fs::MetadataExt as _, sync::Arc};

use rustix::fs::{FileType, Mode, OFlags, openat};

use super::{Code, elf::Tables};
use crate::collect::{
    Target,
    patience::{LOOK_WITHIN, Patience},
};

/// How much of `/proc/PID/maps` is read.
const MAPS_MAX: usize = 8 << 20;
/// How many are remembered.
const MODULES_MAX: usize = 8192;
/// How many files are kept open.
const FILES_MAX: usize = 512;
/// Memory for unwind tables of all files together.
const TABLES_MAX: usize = 12 << 20;

/// A file, or other memory, that code runs from.
pub(super) struct Module {
    /// As the kernel names it; empty for memory that is no file.
    pub(super) path: String,
    pub(super) file: Option<Arc<File>>,
    /// `Some(None)`: looked for, and not there.
    tables: Option<Option<Tables>>,
}

/// A line of `/proc/PID/maps` that can be executed.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct Mapping {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) offset: u64,
    /// Device and inode; the same file has the same.
    pub(super) identity: (String, u64),
    pub(super) path: String,
}

impl Mapping {
    /// What tells one module from another.
    fn key(&self) -> (String, u64, String) {
        (self.identity.0.clone(), self.identity.1, self.path.clone())
    }
}

struct Range {
    start: u64,
    end: u64,
    offset: u64,
    module: u32,
}

/// All of a process.
pub(super) struct Modules {
    list: Vec<Module>,
    by_identity: HashMap<(String, u64, String), u32>,
    /// As they are now, in order.
    ranges: Vec<Range>,
    /// The program, by device and inode: another one has other mappings.
    program: Option<(u64, u64)>,
    may_refresh: bool,
    tables_bytes: usize,
    files: usize,
    /// For its mappings, its memory and its files: what holds up one read of them holds up the others.
    pub(super) patience: Patience,
}

impl Default for Modules {
    fn default() -> Self {
        Self {
            list: Vec::new(),
            by_identity: HashMap::new(),
            ranges: Vec::new(),
            program: None,
            may_refresh: false,
            tables_bytes: 0,
            files: 0,
            patience: Patience::new("user stacks: what is mapped, and memory", LOOK_WITHIN),
        }
    }
}

impl Modules {
    /// Unknown addresses may be looked up once more.
    pub(super) fn may_refresh(&mut self, target: &Target) {
        self.may_refresh = true;
        if self.program.is_none() {
            return;
        }
        let read = target.clone();
        let now = self.patience.ask(move || program(&read)).flatten();
        if now.is_some() && now != self.program {
            self.refresh(target);
        }
    }

    /// Reads the mappings; of a process that has ended the old ones stay.
    pub(super) fn refresh(&mut self, target: &Target) {
        self.may_refresh = false;
        let read = target.clone();
        let mapped = self.patience.ask(move || {
            let text = read.read_text("maps", MAPS_MAX).unwrap_or_default();
            (text.lines().filter_map(parse).collect::<Vec<Mapping>>(), program(&read))
        });
        let Some((mappings, program)) = mapped.filter(|(mappings, _)| !mappings.is_empty()) else { return };
        self.program = program;
        self.open(&mappings, target);
        self.ranges.clear();
        for mapping in mappings {
            if let Some(module) = self.by_identity.get(&mapping.key()).copied() {
                let Mapping { start, end, offset, .. } = mapping;
                self.ranges.push(Range { start, end, offset, module });
            }
        }
        self.ranges.sort_by_key(|range| range.start);
    }

    /// Makes modules of those that are new.
    fn open(&mut self, mappings: &[Mapping], target: &Target) {
        let mut new: Vec<Mapping> = Vec::new();
        for mapping in mappings {
            let key = mapping.key();
            let is_known = self.by_identity.contains_key(&key) || new.iter().any(|new| new.key() == key);
            if !is_known && self.list.len() + new.len() < MODULES_MAX {
                new.push(mapping.clone());
            }
        }
        if new.is_empty() {
            return;
        }
        let keys: Vec<_> = new.iter().map(Mapping::key).collect();
        let (mut left, target) = (FILES_MAX.saturating_sub(self.files), target.clone());
        let opened = self.patience.ask(move || {
            let file = |mapping: &Mapping| {
                let file = (mapping.identity.1 != 0 && left > 0).then(|| open(mapping, &target)).flatten();
                left -= usize::from(file.is_some());
                file.map(Arc::new)
            };
            new.iter().map(file).collect::<Vec<_>>()
        });
        let opened = opened.unwrap_or_default().into_iter().chain(std::iter::repeat(None));
        for (key, file) in keys.into_iter().zip(opened) {
            let Ok(index) = u32::try_from(self.list.len()) else { return };
            self.files += usize::from(file.is_some());
            self.list.push(Module { path: key.2.clone(), file, tables: None });
            self.by_identity.insert(key, index);
        }
    }

    pub(super) fn get(&self, index: u32) -> Option<&Module> {
        self.list.get(usize::try_from(index).ok()?)
    }

    /// Where an address lies.
    pub(super) fn code(&mut self, address: u64, target: &Target) -> Code {
        if let Some(code) = self.find(address) {
            return code;
        }
        if self.may_refresh {
            self.refresh(target);
            if let Some(code) = self.find(address) {
                return code;
            }
        }
        Code { module: None, at: address }
    }

    fn find(&self, address: u64) -> Option<Code> {
        let after = self.ranges.partition_point(|range| range.start <= address);
        let range = self.ranges.get(after.checked_sub(1)?).filter(|range| address < range.end)?;
        let is_file = self.get(range.module).is_some_and(|module| module.file.is_some());
        let at = if is_file { (address - range.start).saturating_add(range.offset) } else { address };
        Some(Code { module: Some(range.module), at })
    }

    /// The unwind tables of a module; they are read when they are asked for the first time.
    pub(super) fn tables(&mut self, index: u32) -> Option<&Tables> {
        let module = self.list.get_mut(usize::try_from(index).ok()?)?;
        let tables = module.tables.get_or_insert_with(|| {
            let file = module.file.clone()?;
            let tables = self.patience.ask(move || Tables::read(&file)).flatten()?;
            let bytes = self.tables_bytes + tables.bytes();
            (bytes <= TABLES_MAX).then(|| {
                self.tables_bytes = bytes;
                tables
            })
        });
        tables.as_ref()
    }
}

fn program(target: &Target) -> Option<(u64, u64)> {
    let flags = OFlags::PATH | OFlags::CLOEXEC;
    let program = File::from(openat(target.folder(), "exe", flags, Mode::empty()).ok()?).metadata().ok()?;
    Some((program.dev(), program.ino()))
}

/// Opens what is mapped there: the file itself, also when its name is gone or another's, where that is allowed.
fn open(mapping: &Mapping, target: &Target) -> Option<File> {
    // Whatever lies there must not keep us waiting.
    let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK | OFlags::NOCTTY;
    let mapped = format!("map_files/{:x}-{:x}", mapping.start, mapping.end);
    let named = || format!("root{}", mapping.path);
    let file = openat(target.folder(), mapped.as_str(), flags, Mode::empty())
        .or_else(|_| openat(target.folder(), named().as_str(), flags, Mode::empty()));
    let file = File::from(file.ok()?);
    let metadata = file.metadata().ok()?;
    let is_file = FileType::from_raw_mode(metadata.mode()) == FileType::RegularFile;
    (is_file && metadata.ino() == mapping.identity.1).then_some(file)
}

/// One line; `None` where it cannot be executed or makes no sense.
pub(super) fn parse(line: &str) -> Option<Mapping> {
    let mut words = line.splitn(6, ' ');
    let (start, end) = words.next()?.split_once('-')?;
    let is_code = words.next()?.as_bytes().get(2) == Some(&b'x');
    let hexadecimal = |text: &str| u64::from_str_radix(text, 16).ok();
    let offset = hexadecimal(words.next()?)?;
    let device = words.next()?.to_owned();
    let inode = words.next()?.parse().ok()?;
    let path = words.next().unwrap_or_default().trim_start().to_owned();
    let (start, end) = (hexadecimal(start)?, hexadecimal(end)?);
    (is_code && start < end).then_some(Mapping { start, end, offset, identity: (device, inode), path })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn only_what_can_be_executed_counts() {
        let line = "7f0a1c000000-7f0a1c021000 r-xp 00001000 fe:00 1234                       /usr/lib/a b.so (deleted)";
        let mapping = parse(line).unwrap();
        assert_eq!((mapping.start, mapping.end, mapping.offset), (0x7f0a_1c00_0000, 0x7f0a_1c02_1000, 0x1000));
        assert_eq!(mapping.identity, ("fe:00".to_owned(), 1234));
        assert_eq!(mapping.path, "/usr/lib/a b.so (deleted)");
        assert_eq!(parse(&line.replace("r-xp", "rw-p")), None);
        assert_eq!(parse("7f0a1c021000-7f0a1c000000 r-xp 00001000 fe:00 1234"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in ".{0,200}", start in any::<u64>(), end in any::<u64>()) {
            parse(&line);
            parse(&format!("{start:x}-{end:x} r-xp {line}"));
        }
    }
}
