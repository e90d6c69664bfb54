//! Lookups of names by the C library, however it asks: from a file, a socket of a resolver on this machine, or the
//! network. Probes in the process tell of them, which cost it two traps a lookup; so only when somebody asks.

use std::{fs::File, num::NonZeroU32, ops::Range, os::unix::fs::FileExt as _, path::PathBuf};

use aya::{
    Ebpf,
    maps::{Array, HashMap, MapData, RingBuf},
    programs::{UProbe, uprobe::UProbeScope},
};

use rustix::{
    fs::{Mode, OFlags, openat},
    io::Errno,
    time::ClockId,
};

use super::{
    Target,
    bpf::{Kernel, maps_bytes, refused},
    clock,
    patience::{self, LOOK_WITHIN, Patience, patiently},
    window::Overlap,
};
use crate::observation::{Hidden, Lookup, Lookups as Seen};

/// The program; `cargo xtask bpf` builds it.
pub(super) const OBJECT: &[u8] = aya::include_bytes_aligned!("lookups/lookups.bpf.o");

/// What is not visible where they are not.
pub(super) const TOPIC: &str = "lookups by the C library";
/// Why, where the process has none. One that has only just begun may get it yet.
pub(super) const NOT_YET: &str =
    "the process has no C library mapped: it is linked statically, or resolves names itself";

const FUNCTION: &str = "getaddrinfo";
/// Lookups that are kept of each window: the longest.
const KEPT: usize = 256;
/// Calls that go on for less are not asked whether they still do.
const QUICK_NS: u64 = 500_000_000;
/// How much of `/proc/PID/maps` is read.
const MAPS_MAX: usize = 8 << 20;

/// `struct asked` of `lookups.bpf.c`.
#[derive(Clone, Copy)]
#[repr(C)]
struct Asked {
    at_ns: u64,
    tid: u32,
    result: i32,
    took_ns: u64,
    stack: u64,
    name: [u8; 256],
}

#[expect(unsafe_code, reason = "promises that any bytes are a value, and that none is padding")]
// SAFETY: integers only, laid out without padding.
unsafe impl aya::Pod for Asked {}

/// Watches lookups of one process. Dropping it detaches and frees everything.
pub(super) struct Lookups {
    /// Holds the programs and their links.
    _ebpf: Ebpf,
    asking: HashMap<MapData, u32, Asked>,
    answers: RingBuf<MapData>,
    lost: Array<MapData, u64>,
    /// Those that ended, with when they began by the kernel's clock; and how many there were in all.
    ended: Overlap<(Vec<Asked>, u64)>,
    map_bytes: u64,
    target: Target,
    /// The page to which probed calls return first.
    returns_to: Option<Range<u64>>,
    patience: Patience,
}

impl Lookups {
    /// Begins to watch.
    ///
    /// # Errors
    /// When BPF is not allowed, or the process has no C library that is a file of its own.
    pub(super) fn attach(kernel: &Kernel, target: &Target) -> Result<Self, Hidden> {
        let named = |why: Hidden| Hidden { what: TOPIC.to_owned(), ..why };
        if !cfg!(target_arch = "x86_64") {
            return Err(named(Hidden {
                what: String::new(),
                why: "the programs know the registers of x86-64 only".to_owned(),
                how: "watch on such a machine".to_owned(),
            }));
        }
        let maps = target.clone();
        let library = patiently(TOPIC, patience::LIMIT, move || library(&maps))?.ok_or_else(|| {
            named(Hidden {
                what: String::new(),
                why: NOT_YET.to_owned(),
                how: "its queries to name servers are seen without probes".to_owned(),
            })
        })?;
        let mut ebpf = kernel.load(OBJECT, target).map_err(named)?;
        let map_bytes = maps_bytes(&ebpf);
        let pid = NonZeroU32::new(target.pid());
        // What is left of a call whose beginning was not seen is nothing; so first the end.
        for name in ["answered", "ask"] {
            let program = ebpf.program_mut(name).and_then(|program| <&mut UProbe>::try_from(program).ok());
            let (Some(program), Some(pid)) = (program, pid) else {
                return Err(named(refused(std::io::Error::other(format!("the object has no program {name}")))));
            };
            program.load().map_err(|error| named(refused(error)))?;
            program.attach(FUNCTION, &library, UProbeScope::OneProcess(pid)).map_err(|error| named(refused(error)))?;
        }
        let mut take = |name: &str| {
            let missing = || named(refused(std::io::Error::other(format!("the object has no map {name}"))));
            ebpf.take_map(name).ok_or_else(missing)
        };
        let wrong = |error: aya::maps::MapError| named(refused(error));
        let (asking, answers, lost) = (take("asking")?, take("answers")?, take("lost")?);
        Ok(Self {
            asking: asking.try_into().map_err(wrong)?,
            answers: answers.try_into().map_err(wrong)?,
            lost: lost.try_into().map_err(wrong)?,
            _ebpf: ebpf,
            ended: Overlap::default(),
            map_bytes,
            target: target.clone(),
            returns_to: None,
            patience: Patience::new("lookups that their threads have left", LOOK_WITHIN),
        })
    }

    /// Takes what came.
    pub(super) fn look(&mut self) {
        while let Some(item) = self.answers.next() {
            let Some(asked) = Asked::read(&item) else { continue };
            for (longest, count) in self.ended.both() {
                *count += 1;
                let at = longest.partition_point(|other| other.took_ns >= asked.took_ns);
                longest.insert(at, asked);
                longest.truncate(KEPT);
            }
        }
        self.forget_left();
    }

    /// Forgets calls that will never return: their thread was cancelled, or jumped out of them.
    fn forget_left(&mut self) {
        let now_ns = now_ns();
        let old = |asked: &Asked| asked.at_ns > 0 && now_ns.saturating_sub(asked.at_ns) > QUICK_NS;
        let going_on = self.asking.iter().flatten().map(|(_, asked)| asked);
        let old: Vec<Asked> = going_on.filter(old).take(KEPT).collect();
        if old.is_empty() {
            return;
        }
        let (target, mut returns_to) = (self.target.clone(), self.returns_to.clone());
        let left = self.patience.ask(move || {
            let left = old.into_iter().filter(|asked| is_left(asked, &target, &mut returns_to)).collect::<Vec<_>>();
            (left, returns_to)
        });
        let Some((left, returns_to)) = left else { return };
        self.returns_to = returns_to;
        // One that ended with its process has waited until then.
        if left.is_empty() || !self.target.is_alive() {
            return;
        }
        for asked in left {
            // Not what the thread has asked meanwhile.
            if self.asking.get(&asked.tid, 0).is_ok_and(|now| now.at_ns == asked.at_ns) {
                self.asking.remove(&asked.tid).ok();
            }
        }
    }

    /// Why it is no longer known whether threads have left their calls.
    pub(super) const fn hidden(&self) -> Option<&Hidden> {
        self.patience.refused()
    }

    /// Another window begins.
    pub(super) fn turn(&mut self) {
        self.look();
        self.ended.turn(Default::default());
    }

    /// What was seen in the window that began `ago_us` before now and is `window_us` long.
    pub(super) fn observed(&mut self, ago_us: u64, window_us: u64) -> Seen {
        self.look();
        let begun_ns = now_ns().saturating_sub(ago_us.saturating_mul(1_000));
        let end_ns = begun_ns.saturating_add(window_us.saturating_mul(1_000));
        let (ended, count) = self.ended.shown();
        let going_on = self.asking.iter().flatten().map(|(_, asked)| Asked { took_ns: 0, ..asked });
        let mut lookups: Vec<Lookup> = going_on
            .filter(|asked| asked.at_ns > 0)
            .take(KEPT)
            .map(|asked| asked.told(begun_ns, None, end_ns.saturating_sub(asked.at_ns)))
            .chain(ended.iter().map(|asked| asked.told(begun_ns, Some(asked.result), asked.took_ns)))
            .collect();
        lookups.sort_by_key(|lookup| std::cmp::Reverse(lookup.took_us));
        lookups.truncate(KEPT);
        Seen { lookups, ended: *count, lost: self.lost.get(&0, 0).unwrap_or_default() }
    }

    /// Memory of the maps, bytes.
    pub(super) const fn map_bytes(&self) -> u64 {
        self.map_bytes
    }
}

/// Whether its thread is gone, or is no longer in that call: above its part of the stack, or the address to return to
/// is no more the one that the kernel has put there to hear of the return.
fn is_left(asked: &Asked, target: &Target, returns_to: &mut Option<Range<u64>>) -> bool {
    match target.read_text(&format!("task/{}/syscall", asked.tid), 256) {
        Ok(text) if stack_of(&text).is_some_and(|stack| stack > asked.stack) => return true,
        Ok(_) => {}
        Err(error) => {
            return [Errno::NOENT, Errno::SRCH].map(|gone| Some(gone.raw_os_error())).contains(&error.raw_os_error());
        }
    }
    let Some(address) = word(target, asked.stack) else { return false };
    let returns = |page: &Option<Range<u64>>| page.as_ref().is_none_or(|page| page.contains(&address));
    // Another program has it elsewhere.
    if returns_to.is_none() || !returns(returns_to) {
        let maps = target.read_text(&target.shared("maps"), MAPS_MAX);
        *returns_to = maps.ok().and_then(|maps| maps.lines().find_map(page_of_returns));
    }
    !returns(returns_to)
}

/// Eight bytes of the process's memory.
fn word(target: &Target, at: u64) -> Option<u64> {
    let flags = OFlags::RDONLY | OFlags::CLOEXEC;
    let memory = openat(target.folder(), &*target.shared("mem"), flags, Mode::empty()).ok()?;
    let mut bytes = [0; 8];
    File::from(memory).read_exact_at(&mut bytes, at).ok()?;
    Some(u64::from_ne_bytes(bytes))
}

fn now_ns() -> u64 {
    u64::try_from(clock::read(ClockId::Monotonic).as_nanos()).unwrap_or(u64::MAX)
}

/// Where a line of `/proc/PID/maps` has the page of the kernel's probes.
fn page_of_returns(line: &str) -> Option<Range<u64>> {
    let (begin, end) = line.strip_suffix("[uprobes]")?.split(' ').next()?.split_once('-')?;
    Some(u64::from_str_radix(begin, 16).ok()?..u64::from_str_radix(end, 16).ok()?)
}

/// The stack pointer of a thread that sleeps, of its `/proc/PID/task/TID/syscall`: the last but one word.
fn stack_of(text: &str) -> Option<u64> {
    let (stack, _) = text.trim_end().rsplit_once(' ')?;
    u64::from_str_radix(stack.rsplit(' ').next()?.strip_prefix("0x")?, 16).ok()
}

impl Asked {
    /// An entry of the ring.
    fn read(bytes: &[u8]) -> Option<Self> {
        let word = |at: usize| Some(u64::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        let half = |at: usize| Some(u32::from_ne_bytes(*bytes.get(at..)?.first_chunk()?));
        Some(Self {
            at_ns: word(0)?,
            tid: half(8)?,
            result: half(12)?.cast_signed(),
            took_ns: word(16)?,
            stack: word(24)?,
            name: *bytes.get(32..)?.first_chunk()?,
        })
    }

    fn told(&self, begun_ns: u64, result: Option<i32>, took_ns: u64) -> Lookup {
        let name = self.name.split(|byte| *byte == 0).next().unwrap_or_default();
        Lookup {
            name: String::from_utf8_lossy(name).into_owned(),
            tid: self.tid,
            at_us: self.at_ns.saturating_sub(begun_ns) / 1_000,
            took_us: took_ns / 1_000,
            result,
        }
    }
}

/// The C library of the process, by a path that leads to the very file, whatever the process sees as its root.
fn library(target: &Target) -> Option<PathBuf> {
    let maps = target.read_text("maps", MAPS_MAX).ok()?;
    let path = maps.lines().find_map(c_library)?;
    Some(PathBuf::from(format!("/proc/{}/root{path}", target.pid())))
}

/// The path of a line of `/proc/PID/maps` where that is a C library's: glibc has `libc.so.6` or `libc-2.31.so`, musl
/// `ld-musl-x86_64.so.1`.
fn c_library(line: &str) -> Option<&str> {
    let path = line.get(line.find('/')?..)?;
    let name = path.rsplit('/').next()?;
    let is_one = name == "libc.so.6"
        || name.starts_with("ld-musl-")
        || name.starts_with("libc.musl-")
        || (name.starts_with("libc-2.") && name.ends_with(".so"));
    is_one.then_some(path)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{BufRead as _, BufReader, Write as _},
        process::{Command, Stdio},
    };

    use proptest::prelude::*;

    use super::*;
    use crate::collect::need;

    #[test]
    fn the_c_library_is_known_by_its_name() {
        let line = |path: &str| format!("7f1c00000000-7f1c00100000 r-xp 00000000 fe:00 12  {path}");
        for path in ["/lib/x86_64-linux-gnu/libc.so.6", "/lib64/libc-2.31.so", "/lib/ld-musl-x86_64.so.1"] {
            assert_eq!(c_library(&line(path)), Some(path));
        }
        for other in ["/usr/lib/libcurl.so.4", "/tmp/libc.so.6 (deleted)", "[vdso]", "/lib/libc-client.so.2007", ""] {
            assert_eq!(c_library(&line(other)), None, "{other}");
        }
    }

    #[test]
    fn what_is_told_of_a_lookup() {
        let mut asked = Asked { at_ns: 5_000, tid: 7, result: -2, took_ns: 9_000, stack: 0, name: [0; 256] };
        asked.name[..4].copy_from_slice(b"a\xffb\0");
        let told = asked.told(2_000, Some(-2), 9_000);
        assert_eq!((told.name.as_str(), told.at_us, told.took_us, told.result), ("a\u{fffd}b", 3, 9, Some(-2)));
        assert_eq!(asked.told(9_000, None, 9_000).at_us, 0);
    }

    #[test]
    fn where_a_stack_is() {
        let poll = "7 0x7ffd5a2c 0x1 0x1388 0x0 0x0 0x0 0x7ffd5a2c1e90 0x7f1c3a0d1a5f\n";
        assert_eq!(stack_of(poll), Some(0x7ffd_5a2c_1e90));
        assert_eq!(stack_of("-1 0x7ffd5a2c1e90 0x7f1c3a0d1a5f\n"), Some(0x7ffd_5a2c_1e90));
        for none in ["running\n", "", "0x1", "7 1 0x2", "1 0xffffffffffffffff1 0x2"] {
            assert_eq!(stack_of(none), None, "{none}");
        }
    }

    #[test]
    fn where_probed_calls_return_to() {
        let line = "7fffffffe000-7ffffffff000 --xp 00000000 00:00 0                          [uprobes]";
        assert_eq!(page_of_returns(line), Some(0x7fff_ffff_e000..0x7fff_ffff_f000));
        for none in ["7fffffffe000-7ffffffff000 r-xp 00000000 00:00 0  [vdso]", "[uprobes]", "x-y [uprobes]", ""] {
            assert_eq!(page_of_returns(none), None, "{none}");
        }
    }

    /// A resolver that nobody answers, in a program that gives up on it without waiting for it to return.
    const LEAVES: &str = r#"
import ctypes, socket, sys, threading, time
libc = ctypes.CDLL(None)
deaf = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); deaf.bind(('127.0.0.1', 0))
libc.__res_state.restype = ctypes.c_void_p
def ask(name, flags=0):
    libc.__res_init()
    state = libc.__res_state()
    # struct __res_state: retrans, retry, options, nscount, nsaddr_list
    server = b'\x02\x00' + deaf.getsockname()[1].to_bytes(2, 'big') + bytes([127, 0, 0, 1]) + bytes(8)
    ctypes.memmove(state, (60).to_bytes(4, 'little'), 4)
    ctypes.memmove(state + 16, (1).to_bytes(4, 'little') + server, 20)
    hints = (ctypes.c_int * 12)(flags)
    found = ctypes.c_void_p()
    return libc.getaddrinfo(name, None, hints, ctypes.byref(found))
print('ready', flush=True); sys.stdin.readline()
assert ask(b'127.0.0.1') == 0
assert ask(b'numbers.example', 4) != 0
for name in (b'left.example', b'stuck.example'):
    thread = threading.Thread(target=ask, args=(name,), daemon=True); thread.start()
    deaf.recv(512)
    if name == b'left.example':
        libc.pthread_cancel(ctypes.c_ulong(thread.ident))
time.sleep(0.8)
print('asked', flush=True); sys.stdin.readline()
"#;

    #[test]
    fn a_call_that_was_left_is_forgotten() {
        let kernel = match Kernel::new() {
            Ok(kernel) => kernel,
            Err(hidden) => return need::skip(hidden.why),
        };
        let mut python = Command::new("python3");
        let mut child = python.args(["-c", LEAVES]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let mut said = BufReader::new(child.stdout.take().unwrap());
        let mut hear = |expected: &str| {
            let mut line = String::new();
            said.read_line(&mut line).unwrap();
            assert_eq!(line.trim(), expected);
        };
        hear("ready");
        let mut lookups = Lookups::attach(&kernel, &Target::new(child.id()).unwrap()).unwrap();
        child.stdin.as_mut().unwrap().write_all(b"\n").unwrap();
        hear("asked");
        let seen = lookups.observed(5_000_000, 5_000_000).lookups;
        child.kill().unwrap();
        child.wait().unwrap();
        let seen: Vec<_> = seen.iter().map(|lookup| (lookup.name.as_str(), lookup.result)).collect();
        assert_eq!(seen, [("stuck.example", None), ("127.0.0.1", Some(0))]);
    }

    proptest! {
        #[test]
        fn any_entry_is_read_or_refused(bytes in proptest::collection::vec(any::<u8>(), 0..400)) {
            prop_assert_eq!(Asked::read(&bytes).is_some(), bytes.len() >= size_of::<Asked>());
        }
    }
}
