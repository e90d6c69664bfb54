//! The [`Layout`] from a program's own debug information.

use std::collections::HashMap;

use gimli::{AttributeValue, DW_AT_data_member_location, DW_AT_name, DW_AT_type, EndianSlice, LittleEndian, SectionId};

use super::layout::{G, Heap, Layout, P, Sched};

type Slice<'a> = EndianSlice<'a, LittleEndian>;
type Dwarf<'a> = gimli::Dwarf<Slice<'a>>;
/// Only the header: a whole unit would want its lines, too, which are long.
type Unit<'a> = gimli::UnitHeader<Slice<'a>>;
type Entry<'a> = gimli::DebuggingInformationEntry<Slice<'a>>;

/// Entries looked at before the search is given up: programs of a gigabyte have fewer.
const ENTRIES_MAX: usize = 100_000_000;
/// A structure that is larger is none of the runtime's.
const OFFSET_MAX: u64 = 1 << 20;
/// Names that a type may have.
const NAMES_MAX: usize = 4;

const WANTED: [&str; 7] = [
    "runtime.g",
    "runtime.p",
    "runtime.schedt",
    "runtime.gcControllerState",
    "runtime.mstats",
    "runtime.moduledata",
    "runtime.sudog",
];

/// Reads it; `section` gives the contents of one, unpacked.
pub(super) fn layout(section: impl Fn(&'static str) -> Option<Vec<u8>>) -> Option<Layout> {
    const SECTIONS: [SectionId; 3] = [SectionId::DebugInfo, SectionId::DebugAbbrev, SectionId::DebugStr];
    let sections: HashMap<_, _> =
        SECTIONS.into_iter().filter_map(|id| Some((id.name(), section(id.name())?))).collect();
    let dwarf = Dwarf::load(|id| {
        let bytes = sections.get(id.name()).map_or(&[][..], Vec::as_slice);
        Ok::<_, gimli::Error>(EndianSlice::new(bytes, LittleEndian))
    });
    find(&dwarf.ok()?)
}

/// A structure's fields: the offset of each, and where its type is described.
type Fields = HashMap<String, (u32, Option<gimli::DebugInfoOffset>)>;

fn find(dwarf: &Dwarf<'_>) -> Option<Layout> {
    let mut found: HashMap<&str, Fields> = HashMap::new();
    let (mut units, mut entries) = (dwarf.units(), 0);
    while let Ok(Some(unit)) = units.next() {
        let Ok(abbreviations) = dwarf.abbreviations(&unit) else { continue };
        let mut cursor = unit.entries(&abbreviations);
        let mut current: Option<&str> = None;
        while let Ok(Some(entry)) = cursor.next_dfs() {
            entries += 1;
            if entries > ENTRIES_MAX {
                return None;
            }
            match (entry.depth(), entry.tag()) {
                (1, gimli::DW_TAG_structure_type) => {
                    let name = name(dwarf, entry);
                    current = name.and_then(|name| WANTED.into_iter().find(|wanted| *wanted == name));
                    if let Some(name) = current {
                        found.entry(name).or_default();
                    }
                }
                (2, gimli::DW_TAG_member) => {
                    if let Some(fields) = current.and_then(|name| found.get_mut(name)) {
                        member(dwarf, &unit, entry, fields);
                    }
                }
                (1, _) => {
                    current = None;
                    if found.len() == WANTED.len() {
                        return layout_of(dwarf, &found);
                    }
                }
                _ => (),
            }
        }
    }
    layout_of(dwarf, &found)
}

fn name<'a>(dwarf: &Dwarf<'a>, entry: &Entry<'a>) -> Option<&'a str> {
    let name = match entry.attr_value(DW_AT_name)? {
        AttributeValue::String(name) => name,
        AttributeValue::DebugStrRef(at) => dwarf.string(at).ok()?,
        _ => return None,
    };
    std::str::from_utf8(name.slice()).ok()
}

fn type_of(unit: &Unit<'_>, entry: &Entry<'_>) -> Option<gimli::DebugInfoOffset> {
    match entry.attr_value(DW_AT_type)? {
        AttributeValue::DebugInfoRef(at) => Some(at),
        AttributeValue::UnitRef(at) => at.to_debug_info_offset(unit),
        _ => None,
    }
}

fn member<'a>(dwarf: &Dwarf<'a>, unit: &Unit<'a>, entry: &Entry<'a>, fields: &mut Fields) {
    let offset = entry.attr(DW_AT_data_member_location).and_then(gimli::Attribute::udata_value);
    let offset = offset.filter(|offset| *offset < OFFSET_MAX).and_then(|offset| u32::try_from(offset).ok());
    if let (Some(name), Some(offset)) = (name(dwarf, entry), offset) {
        fields.insert(name.to_owned(), (offset, type_of(unit, entry)));
    }
}

/// The fields of a structure that is described at an offset, under a second name perhaps.
fn fields_at(dwarf: &Dwarf<'_>, mut at: gimli::DebugInfoOffset) -> Option<Fields> {
    for _ in 0..NAMES_MAX {
        let unit = unit_with(dwarf, at)?;
        let abbreviations = dwarf.abbreviations(&unit).ok()?;
        let mut cursor = unit.entries_at_offset(&abbreviations, at.to_unit_offset(&unit)?).ok()?;
        let first = cursor.next_dfs().ok()??;
        if first.tag() == gimli::DW_TAG_typedef {
            at = type_of(&unit, first)?;
            continue;
        }
        let (depth, mut fields) = (first.depth(), Fields::new());
        while let Ok(Some(entry)) = cursor.next_dfs() {
            if entry.depth() <= depth {
                break;
            }
            if entry.depth() == depth + 1 && entry.tag() == gimli::DW_TAG_member {
                member(dwarf, &unit, entry, &mut fields);
            }
        }
        return Some(fields);
    }
    None
}

fn unit_with<'a>(dwarf: &Dwarf<'a>, at: gimli::DebugInfoOffset) -> Option<Unit<'a>> {
    let mut units = dwarf.units();
    while let Ok(Some(unit)) = units.next() {
        if at.to_unit_offset(&unit).is_some() {
            return Some(unit);
        }
    }
    None
}

fn layout_of(dwarf: &Dwarf<'_>, found: &HashMap<&str, Fields>) -> Option<Layout> {
    let at = |of: &str, path: &str| -> Option<u32> {
        let mut parts = path.split('.');
        let (mut sum, mut of_type) = *found.get(of)?.get(parts.next()?)?;
        for part in parts {
            let (offset, next) = *fields_at(dwarf, of_type?)?.get(part)?;
            (sum, of_type) = (sum + offset, next);
        }
        Some(sum)
    };
    let (g, p, sched, heap) = ("runtime.g", "runtime.p", "runtime.schedt", "runtime.gcControllerState");
    Some(Layout {
        g: G {
            sp: at(g, "sched.sp")?,
            pc: at(g, "sched.pc")?,
            status: at(g, "atomicstatus")?,
            id: at(g, "goid")?,
            wait_since: at(g, "waitsince")?,
            wait_reason: at(g, "waitreason")?,
            created_at: at(g, "gopc")?,
            starts_at: at(g, "startpc")?,
            queued: at(g, "waiting")?,
            channel: at("runtime.sudog", "c.maybeTraceablePtr.vu").or_else(|| at("runtime.sudog", "c"))?,
        },
        p: P {
            status: at(p, "status")?,
            queue_head: at(p, "runqhead")?,
            queue_tail: at(p, "runqtail")?,
            next: at(p, "runnext")?,
            free: at(p, "gFree.n").or_else(|| at(p, "gFree.size"))?,
        },
        sched: Sched {
            lock: at(sched, "lock")?,
            idle_ps: at(sched, "npidle")?,
            queue_len: at(sched, "runqsize").or_else(|| at(sched, "runq.size"))?,
            system: at(sched, "ngsys")?,
            free: match at(sched, "gFree.n") {
                Some(all) => [Some(all), None],
                None => [Some(at(sched, "gFree.stack.size")?), Some(at(sched, "gFree.noStack.size")?)],
            },
        },
        heap: Heap { in_use: at(heap, "heapInUse")?, marked: at(heap, "heapMarked")? },
        collections: at("runtime.mstats", "numgc")?,
        functions_data: at("runtime.moduledata", "gofunc")?,
    })
}
