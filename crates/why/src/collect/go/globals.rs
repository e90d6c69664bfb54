//! Where the runtime's variables are: by symbol where the program has symbols, else by what functions refer to whose
//! names the table of functions has, which no stripping removes.

use super::{
    binary::Binary,
    layout::Layout,
    operands::{Operand, Use, first, operands, pair},
    pclntab::{Function, Pclntab},
};

/// `schedt` is not longer, and what is asked for of it lies in its first bytes.
const SCHED_LEN: u64 = 4096;
/// A function's code is read up to here.
const CODE_MAX: u64 = 64 * 1024;

/// Addresses in the process.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Globals {
    /// A slice of pointers to `g`.
    pub(super) all_gs: u64,
    /// A slice of pointers to `p`.
    pub(super) all_ps: u64,
    pub(super) sched: u64,
    pub(super) max_procs: Option<u64>,
    pub(super) gc_controller: Option<u64>,
    /// The counter itself.
    pub(super) collections: Option<u64>,
    /// An array of strings.
    pub(super) wait_reasons: Option<u64>,
}

const VARIABLES: [&str; 7] = [
    "runtime.allgs",
    "runtime.allp",
    "runtime.sched",
    "runtime.gomaxprocs",
    "runtime.gcController",
    "runtime.memstats",
    "runtime.waitReasonStrings",
];
const FUNCTIONS: [&str; 5] = [
    "runtime.forEachG",
    "runtime.schedtrace",
    "runtime.gcControllerCommit",
    "runtime.gcMarkTermination",
    "runtime.waitReason.String",
];

impl Globals {
    /// By symbols.
    pub(super) fn by_symbol(binary: &Binary, moved_by: u64, layout: &Layout) -> Option<Self> {
        let symbols = binary.symbols(&VARIABLES);
        let at = |name| symbols.get(name).map(|at| at.wrapping_add(moved_by));
        let [gs, ps, sched, procs, controller, stats, reasons] = VARIABLES.map(at);
        Some(Self {
            all_gs: gs?,
            all_ps: ps?,
            sched: sched?,
            max_procs: procs,
            gc_controller: controller,
            collections: stats.map(|stats| stats.wrapping_add(u64::from(layout.collections))),
            wait_reasons: reasons,
        })
    }

    /// By code. `text` is where all code begins in the process.
    pub(super) fn by_code(binary: &Binary, moved_by: u64, layout: &Layout, table: &Pclntab, text: u64) -> Option<Self> {
        let is_data = |address: u64| {
            let address = address.wrapping_sub(moved_by);
            binary.segments().iter().any(|segment| {
                segment.writable && address.checked_sub(segment.address).is_some_and(|at| at < segment.in_memory)
            })
        };
        let functions = table.named(&FUNCTIONS);
        let code = |function: &Function| {
            let (address, len) = (text.wrapping_add(function.entry), (function.end - function.entry).min(CODE_MAX));
            Some(operands(&binary.at(address.wrapping_sub(moved_by), len)?, address))
        };
        let [each, trace, commit, termination, reason]: [Vec<Operand>; 5] =
            FUNCTIONS.map(|name| functions.get(name).and_then(code).unwrap_or_default());

        // A slice is used by loading its pointer and, eight bytes further, its length.
        let all_gs = pair(&each, Use::Load, 8, is_data)?;
        let all_ps = pair(&trace, Use::Load, 8, is_data)?;
        // Its lock is taken before anything else of it is looked at, and then given back.
        let lock = |address| is_data(address) && times(&trace, Use::Address, address) > 1;
        let sched = first(&trace, Use::Address, lock)?.wrapping_sub(u64::from(layout.sched.lock));
        let outside = |address: u64| is_data(address) && address.wrapping_sub(sched) > SCHED_LEN;
        // Its methods take its address.
        let controller = |address| is_data(address) && times(&commit, Use::Address, address) > 1;
        Some(Self {
            all_gs,
            all_ps,
            sched,
            max_procs: first(&trace, Use::LoadSigned, outside),
            gc_controller: first(&commit, Use::Address, controller),
            // `numgc` and, after it, `numforcedgc`: both are counted up there.
            collections: pair(&termination, Use::Increment, 4, is_data),
            wait_reasons: first(&reason, Use::Address, is_data),
        })
    }
}

fn times(operands: &[Operand], how: Use, address: u64) -> usize {
    operands.iter().filter(|operand| **operand == Operand { how, address }).count()
}
