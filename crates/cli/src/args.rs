//! The command line as it was written. What it means is decided by each subcommand.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use clap::{Parser, Subcommand, builder::NonEmptyStringValueParser};
use overdue_core::{LimitName, parse_duration};
use overdue_why::collect::trace::Chosen;

use crate::plan::Address;

/// Network calls that say why they were late: the stage, the limit and who set it, the cause with the kernel's
/// evidence, and the fix.
#[derive(Parser, Debug)]
#[command(
    name = "overdue",
    version,
    arg_required_else_help = true,
    after_help = "\
Begin with `overdue demo`.

Examples:
  overdue demo
  overdue get https://example.com/ --total 2s
  overdue why --pid 4242
  overdue top
  overdue explain server-slow

Exit codes: 0 nothing wrong, 1 a verdict was reached, 2 wrong usage or
environment, 130 interrupted."
)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Make a call and show where its time went, and why it failed if it did
    Get(Box<Get>),
    /// Watch a process, and say what it waits for and why
    Why(Why),
    /// Watch live: all processes that have sockets, or one with its connections, stages and verdicts
    Top(Top),
    /// Draw where a process computes, is off the processors, or waits (flame graph, SVG)
    Flame(Flame),
    /// Show the whole story on loopback: eight faults that a log calls by one name
    Demo,
    /// Stand in front of services: a reverse proxy whose deadlines hold, and whose timeouts say why
    #[command(after_help = GATE_EXAMPLES)]
    Gate(Gate),
    /// Faults made on purpose, with the truth about them
    #[command(subcommand, after_help = LAB_EXAMPLES)]
    Lab(Lab),
    /// Say what a cause means, how to confirm it by hand and how to mend it
    #[command(after_help = EXPLAIN_EXAMPLES)]
    Explain {
        /// The id of a cause, such as `server-slow`; without it, all causes
        cause: Option<String>,
    },
    /// Wait, stopped, and become this command: how `why` starts one
    #[command(hide = true)]
    Become {
        /// End when this process does
        #[arg(long, value_name = "PID")]
        owner: i32,
        #[arg(last = true, required = true)]
        command: Vec<std::ffi::OsString>,
    },
    /// Say what can be seen on this machine, what cannot, why, and how to change it
    #[command(after_help = "Examples:\n  overdue doctor\n  overdue doctor --json")]
    Doctor {
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
    },
}

const GATE_EXAMPLES: &str = "\
Examples:
  overdue gate --config gate.toml --check
  overdue gate --config gate.toml
  kill -HUP PID    follow the file as it is now; a file that is wrong changes nothing
  kill -USR2 PID   hand over to a new process of the program that is there now; no connection is lost
  kill -TERM PID   take no more connections, serve what is in flight, end";

#[derive(clap::Args, Debug)]
pub(crate) struct Gate {
    /// The file that says what to do
    #[arg(long, value_name = "FILE")]
    pub(crate) config: PathBuf,
    /// Only read it and the files that it names, look up its servers, and say what is wrong
    ///
    /// Exit code 2: it would not start. 1: it would, and something is hardly as it was meant: limits that fight each other,
    /// a cluster that no route leads to, a server that is this gateway itself, a certificate that has expired. 0: nothing of
    /// that. A name that does not resolve here and now, or only in part, is said, and is no finding. Nothing is listened
    /// on or written.
    #[arg(long)]
    pub(crate) check: bool,
}

const LAB_EXAMPLES: &str = "\
Examples:
  overdue lab list
  overdue lab run half-head
  overdue lab verify";

const EXPLAIN_EXAMPLES: &str = "\
Examples:
  overdue explain                      all causes
  overdue explain accept-queue-full    one of them";

// No line is longer than 79 characters, so that none is wrapped.
const GET_EXAMPLES: &str = "\
Limits and their defaults:
  queue 5s    resolve 5s    connect 10s    connect-attempt none    tls 10s
  send 30s    wait 30s      gap 30s (silence in the body)          attempt none
  total 60s (redirects included)
The earliest one fires, and is named with who set it.

It connects directly: a proxy that the environment names is not used.

Examples:
  overdue get https://example.com/
  overdue get api.test:8080/health --total 800ms --limit wait=300ms
  overdue get https://api.test/ -n 1000 -c 20
  overdue get https://api.test/ --resolve api.test:443:10.0.0.7 -k
  overdue get https://api.test/items -d @item.json \\
      -H 'content-type: application/json' -o -
  overdue get lab:tls-silent        a fault made on purpose (overdue lab list)

Exit codes: 0 the call ended well (whatever its status), 1 a verdict was
reached, 2 wrong usage or environment, 130 interrupted.";

#[derive(Parser, Debug)]
#[command(after_help = GET_EXAMPLES)]
pub(crate) struct Get {
    // rustdoc would take it for a link.
    #[arg(help = "What to call: [http://]HOST[:PORT]/PATH, https://..., or lab:NAME")]
    #[arg(value_parser = NonEmptyStringValueParser::new())]
    pub(crate) url: String,

    /// Set the limit of a stage, as in `wait=300ms`; `none` leaves it out. May be repeated
    #[arg(long, value_name = "STAGE=DUR", value_parser = limit, help_heading = "Limits")]
    pub(crate) limit: Vec<(LimitName, LimitValue)>,
    /// Set the limit of the whole call, redirects included: the same as `--limit total=DUR`
    #[arg(long, value_name = "DUR", value_parser = limit_value, help_heading = "Limits")]
    pub(crate) total: Option<LimitValue>,

    /// One JSON object on stdout (`overdue.report/1`) instead of text
    #[arg(long, help_heading = "Output", conflicts_with = "include")]
    pub(crate) json: bool,
    /// Write the body of the response to this file. `-` is stdout: the report then goes to stderr. Without it the body
    /// is read and counted
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Show the head of the response, too
    #[arg(short, long, help_heading = "Output")]
    pub(crate) include: bool,

    /// Make so many calls and show percentiles for each stage
    #[arg(short = 'n', long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..), help_heading = "Many calls", conflicts_with_all = ["output", "include"])]
    pub(crate) number: Option<u64>,
    /// Make so many of them at a time
    #[arg(short = 'c', long, value_name = "C", default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=10_000), requires = "number", help_heading = "Many calls")]
    pub(crate) concurrency: u16,

    /// The method; POST with -d, HEAD with -I, otherwise GET
    #[arg(short = 'X', long, value_name = "METHOD", help_heading = "Request")]
    pub(crate) request: Option<String>,
    /// A header field, as in `-H 'accept: text/plain'`; `-H 'accept:'` takes one out. May be repeated
    #[arg(short = 'H', long, value_name = "FIELD", help_heading = "Request")]
    pub(crate) header: Vec<String>,
    /// A body. `@FILE` reads it from a file and `@-` from stdin, as it is, newlines included. Several are joined by `&`
    #[arg(short, long, value_name = "DATA", help_heading = "Request")]
    pub(crate) data: Vec<String>,
    /// Ask for the head only (HEAD), and show it
    #[arg(short = 'I', long, help_heading = "Request", conflicts_with_all = ["data", "request"])]
    pub(crate) head: bool,
    /// Follow redirects, at most 20, all within the same total limit
    #[arg(short = 'L', long, help_heading = "Request")]
    pub(crate) location: bool,

    /// Speak HTTP/1.1 only
    #[arg(long = "http1.1", help_heading = "Connection", conflicts_with = "http2")]
    pub(crate) http1: bool,
    /// Speak HTTP/2 only: by ALPN inside TLS, with prior knowledge (no upgrade) without
    #[arg(long, help_heading = "Connection")]
    pub(crate) http2: bool,
    /// Use this address for that host and port; several are separated by commas. May be repeated
    #[arg(long, value_name = "HOST:PORT:ADDR", value_parser = address, help_heading = "Connection")]
    pub(crate) resolve: Vec<Address>,
    /// Ask this DNS server (port 53 unless given) instead of the system's. May be repeated
    #[arg(long, value_name = "ADDR[:PORT]", value_parser = dns_server, help_heading = "Connection")]
    pub(crate) dns: Vec<SocketAddr>,
    /// Connect to this Unix socket
    #[arg(long, value_name = "PATH", help_heading = "Connection")]
    pub(crate) unix_socket: Option<PathBuf>,
    /// Accept any certificate
    #[arg(short = 'k', long, help_heading = "Connection", conflicts_with = "cacert")]
    pub(crate) insecure: bool,
    /// Trust the certificates of this PEM file instead of the platform's
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    pub(crate) cacert: Option<PathBuf>,
    /// Show the certificate of this PEM file to the server
    #[arg(long, value_name = "FILE", help_heading = "Connection")]
    pub(crate) cert: Option<PathBuf>,
    /// The key of --cert, when it is not in the same file
    #[arg(long, value_name = "FILE", requires = "cert", help_heading = "Connection")]
    pub(crate) key: Option<PathBuf>,
}

const WHY_EXAMPLES: &str = "\
It changes nothing in the process and does not stop it, unless --allow-changes
is given: then, after the report, it gives first aid to the running process,
for what a verdict names and nothing else. It raises the soft limit of open
descriptors, and closes connections that are stuck. Without the flag the report
says what would be done; with it each step is said before it is done, nothing
more is asked, and what changed is said after. First aid buys time: the fix is
in the report.

As root it sees most; without, it sees less of the user's own processes, and
lists what is missing. What its programs in the kernel cost is measured while it
watches, and those that cost more than --budget are detached. --trace sees every
system call, and costs a process about a microsecond for each of them.

Examples:
  overdue why --pid 4242
  overdue why --pid $(pidof -s myserver) --for 10s
  overdue why -- curl -s http://api.test/
  overdue why --pid 4242 --record stall.overdue     for somebody else to judge
  overdue why --replay stall.overdue --json
  overdue why --pid 4242 --html stall.html          a page to look at and to send
  overdue why --pid 4242 --allow-changes            first aid, as root
  overdue why --pid 4242 --budget 0.5               at most half a percent
  overdue why --trace --pid 4242           system calls as they happen, and then
                                           the report; the network, and what
                                           fails or takes 10 ms
  overdue why --trace files,connect --slow 1ms -- ./import

What --record and --html name is written whole or not at all, and is for its
owner alone (mode 0600; under sudo that is who called it), as it tells what a
process does and with whom. It must be a file or a new one: a pipe, a device,
`-` or a symbolic link is refused, before anything is watched.

Ctrl-C or SIGTERM ends the watch, and what was seen is told; a second one, or
one after the watch, ends the program at once. A command goes with it, and all
that it started.

Exit codes: 0 nothing wrong (advisories may be printed), 1 a verdict was
reached, or the process was killed by a signal or exited with another code than
0 while it was watched, 2 wrong usage or environment, 130 interrupted; 130 or
143 and no report when a signal ended the program at once.";

#[derive(Parser, Debug)]
#[command(after_help = WHY_EXAMPLES)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["pid", "replay", "command"]))]
pub(crate) struct Why {
    /// Watch the process with this number
    #[arg(short, long, value_name = "PID", value_parser = pid)]
    pub(crate) pid: Option<u32>,
    /// Run this command and watch it; its output goes to stderr. When it still runs at the end of the watch, it is ended
    #[arg(last = true, value_name = "CMD")]
    pub(crate) command: Vec<std::ffi::OsString>,
    /// Judge a recording
    #[arg(long, value_name = "FILE")]
    pub(crate) replay: Option<PathBuf>,

    /// Watch for so long, from 1s to 1h; a second longer where a name server was asked in the last one, so that it can be told whether it answers
    #[arg(long = "for", value_name = "DUR", default_value = "5s", value_parser = window, conflicts_with = "replay")]
    pub(crate) window: Duration,

    /// Probe functions of its C library, too: lookups of names (`getaddrinfo`), whomever it asks. Each call of them then
    /// takes some microseconds longer. Needs root
    #[arg(long, conflicts_with = "replay")]
    pub(crate) uprobes: bool,
    /// What the programs in the kernel may cost: so many percent of the processor time that the process uses, or of one
    /// processor where it uses less; `none` is no limit. What is too dear is detached, and listed. Most often it is far
    /// below 1; of a process that does nothing but system calls these are given up after a second. It bounds neither
    /// --trace nor --uprobes
    #[arg(long, value_name = "PERCENT", default_value = "5", value_parser = budget, conflicts_with = "replay")]
    pub(crate) budget: Budget,

    /// Give first aid to the running process where a verdict calls for it. Each step is said before it is done
    #[arg(long, conflicts_with_all = ["replay", "command"], help_heading = "Changes")]
    pub(crate) allow_changes: bool,

    /// Show system calls as they happen: network, poll, files, all, or names, separated by commas. Without a list: the
    /// network, and what fails or is slow
    #[arg(long, value_name = "CALLS", num_args = 0..=1, value_parser = Chosen::parse, help_heading = "Trace", conflicts_with = "replay")]
    pub(crate) trace: Option<Option<Chosen>>,
    /// A call that takes so long is slow: it is shown with its stack, as one that failed is. A wait that ends at its
    /// own limit is not: for that, its lateness counts
    #[arg(long, value_name = "DUR", default_value = "10ms", value_parser = parse_duration, help_heading = "Trace", requires = "trace")]
    pub(crate) slow: Duration,

    /// One JSON object on stdout (`overdue.report/1`) instead of text; with `--trace` one a line before it
    /// (`overdue.trace/1`)
    #[arg(long, help_heading = "Output")]
    pub(crate) json: bool,
    /// Write the report to this file as one page for a browser, with charts; it needs nothing else, and no network. The
    /// file is its owner's alone: `chmod` it to share it
    #[arg(long, value_name = "FILE", help_heading = "Output")]
    pub(crate) html: Option<PathBuf>,
    /// Write what was seen to this file, to be judged again with `--replay`. The file is its owner's alone
    #[arg(long, value_name = "FILE", help_heading = "Output", conflicts_with = "replay")]
    pub(crate) record: Option<PathBuf>,
}

const FLAME_EXAMPLES: &str = "\
What the width of a frame means:
  --on     samples, 99 a second on each processor (the default)
  --off    time from when a thread is switched off a processor until it is
           back; the innermost frame is the system call, or says that it was
           ready and had no processor
  --wait   in a Go program the goroutines that wait there at the end of the
           watch; elsewhere the time that threads were found waiting, by looks
           (20 a second). Threads that idle are in it, too: each tower stands on
           the name of its thread
  --diff   the width of what came after; red has grown, blue has shrunk

Examples:
  overdue flame --pid 4242
  overdue flame --pid 4242 --off --for 10s -o off.svg
  overdue flame --pid 4242 --wait --folded waits.folded -o waits.svg
  overdue flame --diff before.folded after.folded        two of the same kind
  overdue flame --diff monday.overdue friday.overdue --wait   recordings of `why`

A file is written whole or not at all; a pipe, a device or a symbolic link is
refused.

Exit codes: 0 it was drawn, 2 wrong usage or environment, 130 interrupted
(what was seen by then is drawn; a second signal ends it at once).";

#[derive(Parser, Debug)]
#[command(after_help = FLAME_EXAMPLES)]
#[command(group = clap::ArgGroup::new("whom").required(true).args(["pid", "diff"]))]
#[command(group = clap::ArgGroup::new("sight").args(["on", "off", "wait"]))]
pub(crate) struct Flame {
    /// Watch the process with this number
    #[arg(short, long, value_name = "PID", value_parser = pid)]
    pub(crate) pid: Option<u32>,
    /// Compare two: files of `--folded` (or of other tools), or recordings of `why --record`
    #[arg(long, num_args = 2, value_names = ["BEFORE", "AFTER"])]
    pub(crate) diff: Vec<PathBuf>,

    /// Where it computes
    #[arg(long)]
    pub(crate) on: bool,
    /// Where its threads are off the processors
    #[arg(long)]
    pub(crate) off: bool,
    /// What its work waits for
    #[arg(long)]
    pub(crate) wait: bool,

    /// Watch for so long, from 1s to 1h
    #[arg(long = "for", value_name = "DUR", default_value = "5s", value_parser = window, conflicts_with = "diff")]
    pub(crate) window: Duration,

    /// Where the SVG goes; `-` is stdout. Without it: overdue-PID-on.svg, overdue-diff.svg and the like, here
    #[arg(short, long, value_name = "FILE", help_heading = "Output")]
    pub(crate) output: Option<PathBuf>,
    /// Write the stacks in collapsed form, which other tools read, too
    #[arg(long, value_name = "FILE", help_heading = "Output", conflicts_with = "diff")]
    pub(crate) folded: Option<PathBuf>,
}

const TOP_EXAMPLES: &str = "\
Examples:
  overdue top                  all processes with sockets; Enter watches one
  overdue top --pid 4242       one process

Keys:
  arrows j k PgUp PgDn g G     move
  Tab, or v c t d              verdicts, connections, threads, descriptors
  Enter                        look closely     Esc   back
  /                            filter           s r   sort by another column, reverse
  n                            what cannot be seen, and how to change that
  p Space                      hold             ?     all keys
  q Ctrl-C                     quit

It needs a terminal; `overdue why` prints the same for a file or a program.
Nothing is changed in a process, and none is stopped. Without root only own
processes are seen, and less of them.

Exit codes: 0 quit by a key, 2 wrong usage or environment, 130 ended by a
signal.";

#[derive(Parser, Debug)]
#[command(after_help = TOP_EXAMPLES)]
pub(crate) struct Top {
    /// Watch the process with this number
    #[arg(short, long, value_name = "PID", value_parser = pid)]
    pub(crate) pid: Option<u32>,
}

fn pid(text: &str) -> Result<u32, String> {
    let pid = text.parse().ok().filter(|pid| *pid > 0);
    pid.ok_or_else(|| "write the number of one process, 1 or more: `pgrep -a NAME` lists them".to_owned())
}

/// A share, or `None` for one without a limit. The name keeps clap from seeing two options.
pub(crate) type Budget = Option<f64>;

fn budget(text: &str) -> Result<Budget, String> {
    if text == "none" {
        return Ok(None);
    }
    let wrong = "write a number of percent above 0, such as 2 or 0.5, or `none`";
    let percent: f64 = text.trim_end_matches('%').parse().map_err(|_| wrong.to_owned())?;
    if percent.is_finite() && percent > 0.0 { Ok(Some(percent / 100.0)) } else { Err(wrong.to_owned()) }
}

/// Long enough to see something happen twice, short enough to be what somebody meant.
const WINDOW: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(3600));

fn window(text: &str) -> Result<Duration, String> {
    let value = parse_duration(text).map_err(|error| error.to_string())?;
    if value < WINDOW.0 || value > WINDOW.1 {
        return Err("watch for a second at least, and an hour at most".to_owned());
    }
    Ok(value)
}

#[derive(Subcommand, Debug)]
pub(crate) enum Lab {
    /// List the scenarios: what each is, and what it must be judged as
    List,
    /// Start a scenario, call it, and show the verdict beside the truth
    #[command(after_help = "\
Examples:
  overdue lab run half-head
  overdue lab run executor-blocked --json
  overdue lab run body-stall --through-gate    # judged by a gateway before the fault

Exit codes: 0 judged as its truth, 1 judged wrongly, 2 it could not be run.")]
    Run {
        /// A name from `overdue lab list`
        name: String,
        /// One JSON object instead of text
        #[arg(long)]
        json: bool,
        /// With `overdue gate` between caller and fault: the verdict is that of its log
        #[arg(long)]
        through_gate: bool,
        /// End when this process does
        #[arg(long, value_name = "PID", hide = true)]
        owner: Option<i32>,
    },
    /// Run scenarios and compare every verdict with the truth
    #[command(after_help = "\
Examples:
  overdue lab verify
  overdue lab verify no-head half-head --runs 20
  overdue lab verify --through-gate
  overdue lab verify --json | jq '.scenarios[] | select(.result != \"ok\")'

Exit codes: 0 every verdict is right, 1 one is not, 2 one could not be run.")]
    Verify {
        /// Names from `overdue lab list`; all of them when none is given
        names: Vec<String>,
        /// One JSON object instead of a table
        #[arg(long)]
        json: bool,
        /// With `overdue gate` between caller and fault: the verdicts are those of its log
        #[arg(long)]
        through_gate: bool,
        /// Run each scenario so many times
        #[arg(long, value_name = "N", default_value_t = 1, value_parser = clap::value_parser!(u32).range(1..))]
        runs: u32,
    },
}

/// Of a limit that is set, or `None` for one that is left out. The name keeps clap from seeing two options.
pub(crate) type LimitValue = Option<Duration>;

/// What reports count in.
const SHORTEST_LIMIT: Duration = Duration::from_micros(1);

fn limit(text: &str) -> Result<(LimitName, LimitValue), String> {
    let (name, value) = text.split_once('=').ok_or("write STAGE=DUR, such as wait=300ms")?;
    if name == "receive" {
        return Err("the body has no limit of its own: use gap (silence between two pieces) or total".to_owned());
    }
    let name = name.parse::<LimitName>().map_err(|error| error.to_string())?;
    limit_value(value).map(|value| (name, value))
}

fn limit_value(text: &str) -> Result<LimitValue, String> {
    if text == "none" {
        return Ok(None);
    }
    match parse_duration(text) {
        Ok(value) if value < SHORTEST_LIMIT => {
            Err("it is too short: the shortest limit is 1us, and `none` is no limit at all".to_owned())
        }
        Ok(value) => Ok(Some(value)),
        Err(_) if is_written_well(text) => {
            Err("it is too long: the longest limit is a hundred years, and `none` is no limit at all".to_owned())
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Whether it is a duration, but for its number: one with the same unit is.
fn is_written_well(text: &str) -> bool {
    let unit = text.trim().trim_start_matches(|c: char| c.is_ascii_digit() || c == '.');
    let number = text.trim().strip_suffix(unit).unwrap_or_default();
    number.parse::<f64>().is_ok() && parse_duration(&format!("1{unit}")).is_ok()
}

fn dns_server(text: &str) -> Result<SocketAddr, String> {
    let bare = text.trim_start_matches('[').trim_end_matches(']');
    let server = text.parse().or_else(|_| bare.parse().map(|ip| SocketAddr::new(ip, 53)));
    server.map_err(|_| "write an IP address with or without a port, such as 127.0.0.1:5353".to_owned())
}

fn address(text: &str) -> Result<Address, String> {
    let wrong = || "write HOST:PORT:ADDR, such as api.test:443:10.0.0.7".to_owned();
    let mut parts = text.splitn(3, ':');
    let (Some(host), Some(port), Some(addresses)) = (parts.next(), parts.next(), parts.next()) else {
        return Err(wrong());
    };
    let port = port.parse().map_err(|_| format!("{port:?} is no port: {}", wrong()))?;
    let bare = |text: &str| text.trim_start_matches('[').trim_end_matches(']').to_owned();
    let addresses = addresses
        .split(',')
        .map(|text| bare(text).parse().map_err(|_| format!("{text:?} is no IP address: {}", wrong())))
        .collect::<Result<_, _>>()?;
    Ok(Address { host: host.to_owned(), port, addresses })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        <Args as clap::CommandFactory>::command().debug_assert();
    }

    #[test]
    fn limits_are_read() {
        let ms = Duration::from_millis;
        assert_eq!(limit("wait=300ms").unwrap(), ("wait".parse().unwrap(), Some(ms(300))));
        assert_eq!(limit("total=none").unwrap().1, None);
        assert_eq!(limit_value("none").unwrap(), None);
        assert_eq!(limit_value("1us").unwrap(), Some(SHORTEST_LIMIT));
        for (text, part) in [
            ("wait", "STAGE=DUR"),
            ("wait=5", "with a unit"),
            ("wait=.s", "with a unit"),
            ("wit=5s", "queue"),
            ("receive=1s", "gap"),
            ("wait=0s", "too short"),
            ("wait=999ns", "too short"),
            ("wait=99999999h", "too long"),
        ] {
            let error = limit(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn budgets_are_read() {
        for (text, share) in [("2", Some(0.02)), ("0.5%", Some(0.005)), ("none", None)] {
            assert_eq!(budget(text).unwrap(), share, "{text}");
        }
        for text in ["0", "-1", "NaN", "inf", "two", ""] {
            assert!(budget(text).unwrap_err().contains("percent"), "{text}");
        }
    }

    #[test]
    fn addresses_are_read() {
        let address = address("api.test:443:10.0.0.7,[::1]").unwrap();
        assert_eq!((address.host.as_str(), address.port), ("api.test", 443));
        assert_eq!(address.addresses, [[10, 0, 0, 7].into(), "::1".parse::<std::net::IpAddr>().unwrap()]);
        for text in ["api.test:443", "api.test:x:10.0.0.7", "api.test:443:nowhere"] {
            assert!(super::address(text).is_err(), "{text}");
        }
        assert_eq!(dns_server("127.0.0.1").unwrap().port(), 53);
        assert_eq!(dns_server("[::1]:5353").unwrap().port(), 5353);
        assert_eq!(dns_server("::1").unwrap(), "[::1]:53".parse().unwrap());
        assert!(dns_server("dns.test").is_err());
    }
}
