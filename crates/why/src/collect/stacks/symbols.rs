//! Names for addresses. Large binaries take long to read, so it runs beside, and what is not ready in time goes without.

use std::{
    cell::OnceCell,
    collections::{BTreeSet, HashMap},
    fs::File,
    os::fd::AsRawFd as _,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::Duration,
};

use blazesym::symbolize::{
    CodeInfo, Input, Symbolized, Symbolizer,
    source::{Elf, Source},
};

use super::{Code, modules::Modules};
use crate::{collect::Target, observation::Frame};

/// Debug information of files larger than this is not read: it would cost more memory than all else.
const DEBUG_FILE_MAX: u64 = 96 << 20;
/// How much is read of what a runtime writes about the code that it made.
const PERF_MAP_MAX: usize = 16 << 20;

/// A function and the line in it.
#[derive(Clone, PartialEq, Eq, Debug)]
struct Named {
    function: String,
    at: Option<String>,
}

/// What is known of addresses: for each the functions, the innermost (inlined) first. None of one that has no name.
#[derive(Default)]
pub(super) struct Names(HashMap<Code, Vec<Named>>);

impl Names {
    /// The frames of an address: one, or several where calls were inlined.
    pub(super) fn frames(&self, modules: &Modules, code: Code) -> Vec<Frame> {
        let module = code.module.and_then(|module| modules.get(module));
        let file =
            module.filter(|module| !module.path.is_empty()).map(|module| format!("{}+{:#x}", module.path, code.at));
        let file = file.or_else(|| Some(format!("{:#x}", code.at)));
        match self.0.get(&code).filter(|named| !named.is_empty()) {
            None => vec![Frame { function: None, at: None, module: file }],
            Some(named) => {
                let frame = |named: &Named| Frame {
                    function: Some(named.function.clone()),
                    at: named.at.clone(),
                    module: file.clone(),
                };
                named.iter().map(frame).collect()
            }
        }
    }

    /// Looks up addresses that are not known yet, the earlier ones first. What takes longer than `limit` is left.
    pub(super) fn learn<'a>(
        &mut self,
        namer: &Namer,
        modules: &Modules,
        target: &Target,
        codes: impl Iterator<Item = &'a Code>,
        (detail, limit): (Detail, Duration),
    ) {
        let mut work: Vec<Work> = Vec::new();
        let mut made = BTreeSet::new();
        let mut seen = BTreeSet::new();
        for code in codes {
            if self.0.contains_key(code) || !seen.insert(*code) {
                continue;
            }
            let Some((index, module)) = code.module.and_then(|index| Some((index, modules.get(index)?))) else {
                continue;
            };
            let Some(file) = &module.file else {
                made.insert(*code);
                continue;
            };
            match work.iter_mut().find(|work| work.module == index) {
                Some(work) => work.offsets.push(code.at),
                None => work.push(Work { module: index, file: Arc::clone(file), offsets: vec![code.at] }),
            }
        }
        self.0.extend(by_perf_map(target, &made));
        if !work.is_empty() {
            let answers = namer.ask(work, detail);
            if !answers.is_some_and(|answers| receive(&answers, limit, &mut self.0)) {
                return;
            }
        }
        // They were looked for, and have none.
        seen.into_iter().for_each(|code| _ = self.0.entry(code).or_default());
    }
}

/// One file and the offsets in it that want names.
struct Work {
    module: u32,
    file: Arc<File>,
    offsets: Vec<u64>,
}

/// Looks addresses up, on a thread of its own that keeps what it has read of the files.
#[derive(Default)]
pub(super) struct Namer {
    /// `Some(None)`: there is no thread to be had.
    requests: OnceCell<Option<Sender<Request>>>,
}

struct Request {
    work: Vec<Work>,
    detail: Detail,
    answers: Sender<Vec<Found>>,
}

/// How much is to be known of an address.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Detail {
    /// Functions that a file has a symbol for: quick.
    Functions,
    /// Lines and inlined calls, too, where there is debug information: to read it may take seconds.
    Lines,
}

impl Namer {
    /// `None` where nobody will answer.
    fn ask(&self, work: Vec<Work>, detail: Detail) -> Option<Receiver<Vec<Found>>> {
        let (answers, receiver) = channel();
        let start = || {
            let (sender, requests) = channel();
            let serve = move || serve(&requests);
            thread::Builder::new().name("overdue-names".to_owned()).spawn(serve).ok().map(|_| sender)
        };
        self.requests.get_or_init(start).as_ref()?.send(Request { work, detail, answers }).ok()?;
        Some(receiver)
    }
}

type Found = (Code, Vec<Named>);

/// Whether all was done before the time was up.
fn receive(receiver: &Receiver<Vec<Found>>, limit: Duration, names: &mut HashMap<Code, Vec<Named>>) -> bool {
    let begun = now();
    while let Some(left) = limit.checked_sub(now().saturating_sub(begun)) {
        match receiver.recv_timeout(left) {
            Ok(found) => names.extend(found),
            Err(RecvTimeoutError::Disconnected) => return true,
            Err(RecvTimeoutError::Timeout) => return false,
        }
    }
    false
}

fn now() -> Duration {
    Duration::try_from(rustix::time::clock_gettime(rustix::time::ClockId::Monotonic)).unwrap_or_default()
}

fn serve(requests: &Receiver<Request>) {
    // What C calls `b`, blazesym would call `bool`.
    let plain = || Symbolizer::builder().enable_demangling(false);
    let symbolizer = |debug| plain().enable_code_info(debug).enable_inlined_fns(debug).build();
    let symbolizers = [(false, symbolizer(false)), (true, symbolizer(true))];
    while let Ok(Request { work, detail, answers }) = requests.recv() {
        let symbolizers = symbolizers.iter().filter(|(debug, _)| !debug || detail == Detail::Lines);
        look_up(symbolizers, &work, &answers);
    }
}

/// First the names of all, which are quick; then lines and inlined calls, file by file.
fn look_up<'a>(symbolizers: impl Iterator<Item = &'a (bool, Symbolizer)>, work: &[Work], sender: &Sender<Vec<Found>>) {
    for (debug, symbolizer) in symbolizers {
        let debug = *debug;
        for work in work {
            // To read a file takes long: not when nobody listens any more.
            if sender.send(Vec::new()).is_err() {
                return;
            }
            let too_large = || work.file.metadata().is_ok_and(|metadata| metadata.len() > DEBUG_FILE_MAX);
            if debug && too_large() {
                continue;
            }
            let mut elf = Elf::new(format!("/proc/self/fd/{}", work.file.as_raw_fd()));
            elf.debug_syms = debug;
            let Ok(symbols) = symbolizer.symbolize(&Source::Elf(elf), Input::FileOffset(&work.offsets)) else {
                continue;
            };
            let found = symbols.iter().zip(&work.offsets).filter_map(|(symbol, offset)| {
                let code = Code { module: Some(work.module), at: *offset };
                Some((code, named(symbol)?))
            });
            // Nobody listens any more: the time is over.
            if sender.send(found.collect()).is_err() {
                return;
            }
        }
    }
}

fn named(symbol: &Symbolized<'_>) -> Option<Vec<Named>> {
    let Symbolized::Sym(symbol) = symbol else { return None };
    let line = |info: Option<&CodeInfo<'_>>| {
        let info = info?;
        let path = info.to_path();
        Some(info.line.map_or_else(|| path.display().to_string(), |line| format!("{}:{line}", path.display())))
    };
    let outer = Named { function: demangled(&symbol.name), at: line(symbol.code_info.as_deref()) };
    let inlined = symbol.inlined.iter();
    let inlined = inlined.map(|it| Named { function: demangled(&it.name), at: line(it.code_info.as_ref()) });
    let mut all: Vec<Named> = std::iter::once(outer).chain(inlined).collect();
    all.reverse();
    Some(all)
}

/// As a function is written in its language, where its name says by its beginning that it was mangled.
fn demangled(name: &str) -> String {
    let rust = || rustc_demangle::try_demangle(name).map(|it| format!("{it:#}")).ok();
    let cpp = || cpp_demangle::Symbol::new(name).ok()?.demangle().ok();
    let known = (name.starts_with("_Z") || name.starts_with("_R")).then(|| rust().or_else(cpp)).flatten();
    known.unwrap_or_else(|| name.to_owned())
}

/// Names of code that was made at run time, where the runtime writes them down (Node and Java do when asked).
fn by_perf_map(target: &Target, wanted: &BTreeSet<Code>) -> HashMap<Code, Vec<Named>> {
    if wanted.is_empty() {
        return HashMap::new();
    }
    // The file has the number that the process knows itself by, the last of these.
    let status = target.read_text("status", 16 * 1024).unwrap_or_default();
    let own = status.lines().find_map(|line| line.strip_prefix("NSpid:")?.split_ascii_whitespace().last());
    let own = own.and_then(|own| own.parse().ok()).unwrap_or_else(|| target.pid());
    let Ok(text) = target.read_text(&format!("root/tmp/perf-{own}.map"), PERF_MAP_MAX) else { return HashMap::new() };
    let mut symbols: Vec<(u64, u64, &str)> = text.lines().filter_map(perf_map_line).collect();
    symbols.sort_by_key(|symbol| symbol.0);
    let find = |code: &Code| {
        let after = symbols.partition_point(|(start, ..)| *start <= code.at);
        let (start, size, name) = symbols.get(after.checked_sub(1)?)?;
        (code.at - start < *size).then(|| (*code, vec![Named { function: (*name).to_owned(), at: None }]))
    };
    wanted.iter().filter_map(find).collect()
}

fn perf_map_line(line: &str) -> Option<(u64, u64, &str)> {
    let (start, rest) = line.split_once(' ')?;
    let (size, name) = rest.split_once(' ')?;
    let hexadecimal = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    Some((hexadecimal(start)?, hexadecimal(size)?, name))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn names_of_c_stay_as_they_are() {
        for (name, shown) in [
            ("b", "b"),
            ("Pi", "Pi"),
            ("_ZN4core3fmt5write17h0123456789abcdefE", "core::fmt::write"),
            ("_RNvC6_123foo3bar", "123foo::bar"),
            ("_ZNSt6thread4joinEv", "std::thread::join()"),
            ("_Zurich", "_Zurich"),
        ] {
            assert_eq!(demangled(name), shown);
        }
    }

    #[test]
    fn a_runtime_says_where_its_code_lies() {
        assert_eq!(
            perf_map_line("7f00 1a LazyCompile:~handle /a b.js:1"),
            Some((0x7f00, 0x1a, "LazyCompile:~handle /a b.js:1"))
        );
        assert_eq!(perf_map_line("7f00 1a"), None);
    }

    proptest! {
        #[test]
        fn any_line_is_read_or_refused(line in ".{0,100}") {
            perf_map_line(&line);
        }
    }
}
