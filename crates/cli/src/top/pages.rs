//! What is seen of one finding, connection or thread, in full: lines of text. Pure.

use overdue_core::{Stage, facts::TcpInfo};
use overdue_why::{
    Observation,
    judge::{self, Finding, Stall},
    observation::{Connection, Moment, Side, TcpSocket, Thread},
    timeline,
};

use super::picture::{Picture, amount, lives, long, sockets, what};
use crate::{
    render,
    screen::{Screen, harmless},
};

/// Frames of a stack that are shown.
const FRAMES: usize = 40;
/// Descriptors that a thread waits for.
const WAITS: usize = 16;

/// The verdict as the report has it.
pub(crate) fn finding(finding: &Finding, is_found: bool, columns: usize) -> Vec<String> {
    let text = render::why::verdict(Screen::text(columns), finding);
    let text = match finding.verdict.cause.is_advisory() {
        true => text.replacen("VERDICT", "ALSO", 1),
        false => text,
    };
    let mut lines: Vec<String> = text.lines().map(str::to_owned).collect();
    if !is_found {
        lines.insert(0, "(it is no longer found: this is what was seen last)".to_owned());
    }
    lines.push(String::new());
    lines.push(format!("More about it: overdue explain {}", finding.verdict.cause));
    lines
}

/// A page of text, built line by line.
struct Lines {
    screen: Screen,
    lines: Vec<String>,
}

impl Lines {
    const fn new(columns: usize) -> Self {
        Self { screen: Screen::text(columns), lines: Vec::new() }
    }

    fn title(&mut self, title: &str) {
        if !self.lines.is_empty() {
            self.lines.push(String::new());
        }
        self.lines.push(title.to_owned());
    }

    /// A name and what there is to say about it.
    fn fact(&mut self, name: &str, text: &str) {
        let text = self.screen.hanging(&format!("  {name:11} "), &harmless(text));
        self.lines.extend(text.lines().map(str::to_owned));
    }
}

/// One connection: its stages, the kernel's facts, what it stalls on.
pub(crate) fn connection(picture: &Picture, cookie: u64, columns: usize) -> Vec<String> {
    let seen = &picture.seen;
    let socket = sockets(seen).find(|socket| socket.cookie == cookie);
    let life = lives(seen).find(|life| life.cookie == cookie);
    if socket.is_none() && life.is_none() {
        return vec!["This connection is gone.".to_owned()];
    }
    let mut page = Lines::new(columns);
    let end = |address: Option<std::net::SocketAddr>| address.map_or_else(|| "?".to_owned(), |it| it.to_string());
    let local = end(socket.map(|it| it.local).or_else(|| life.and_then(|it| it.local)));
    let remote = end(socket.map(|it| it.remote).or_else(|| life.and_then(|it| it.remote)));
    page.title(&format!("CONNECTION {local} - {remote}"));
    let side = match life.map(|it| it.side) {
        Some(Side::Client) => "opened by the process",
        Some(Side::Server) => "opened by the peer",
        _ if socket.is_some_and(|it| it.inbound) => "opened by the peer",
        _ => "it is not known who opened it",
    };
    page.fact("side", side);
    if let Some(socket) = socket {
        let longer = if socket.since_before { " or longer" } else { "" };
        let state = judge::state_text(socket.state);
        page.fact("state", &format!("{state} for {}{longer}", long(socket.in_state_us)));
    }
    if let Some(us) = life.and_then(|it| it.closed.and_then(Moment::us)) {
        page.fact("closed", &format!("{} ago", long(seen.window_us.saturating_sub(us))));
    }
    if let Some(what) = life.and_then(what) {
        page.fact("what", &what);
    }
    let fd = socket.and_then(|it| it.fd).map_or_else(|| "none".to_owned(), |fd| fd.to_string());
    page.fact("descriptor", &format!("{fd} (socket cookie {cookie})"));
    if let Some(stall) = picture.stalls.iter().find(|stall| stall.cookie == cookie) {
        stalled(&mut page, stall);
    }
    if let Some(life) = life {
        waterfall(&mut page, life, seen, columns);
        exchanges(&mut page, life);
    }
    if let Some(socket) = socket {
        kernel(&mut page, socket);
    }
    page.lines
}

fn stalled(page: &mut Lines, stall: &Stall) {
    page.title("STALLED");
    let Stall { cause, stage, stalled_us, .. } = stall;
    page.fact("cause", &format!("{cause}, in {stage}, for {}", long(*stalled_us)));
    page.fact("meaning", cause.entry().meaning);
    cause.entry().fix.iter().for_each(|fix| page.fact("fix", fix));
}

/// The stages of the current or last exchange, as bars of one scale.
fn waterfall(page: &mut Lines, life: &Connection, seen: &Observation, columns: usize) {
    let phases = timeline::stages(life, seen.window_us);
    let Some(begin) = phases.first().map(|phase| phase.start_us) else { return };
    let end = phases.last().map_or(begin, |phase| phase.start_us.saturating_add(phase.duration_us));
    page.title(&format!("STAGES, {} of them", long(end.saturating_sub(begin))));
    let width = u64::try_from(columns.saturating_sub(34).clamp(4, 60)).unwrap_or(4);
    let scale = end.saturating_sub(begin).max(1);
    let place = |us: u64| usize::try_from(us.saturating_mul(width) / scale).unwrap_or(0);
    for phase in &phases {
        let from = place(phase.start_us.saturating_sub(begin));
        let length = place(phase.duration_us).max(1);
        let bar = format!("{}{}", " ".repeat(from), if phase.stage == Stage::Wait { "▒" } else { "█" }.repeat(length));
        let how = match (phase.partial, phase.inferred) {
            (true, _) => " or longer",
            (false, true) => " (inferred)",
            (false, false) => "",
        };
        let took = long(phase.duration_us);
        let stage = phase.stage.as_str();
        page.lines.push(format!("  {stage:8} {bar:0$} {took}{how}", usize::try_from(width).unwrap_or(4) + 1));
    }
}

fn exchanges(page: &mut Lines, life: &Connection) {
    page.title("WHAT WAS SAID, while it was watched");
    let silent = |gaps: &overdue_why::observation::Gaps| {
        format!("{} in all, the longest {}", long(gaps.total_us), long(gaps.longest_us))
    };
    page.fact("read", &format!("{} bytes; waited for them {}", life.read_bytes, silent(&life.read_gaps)));
    page.fact("written", &format!("{} bytes; came to that in {}", life.written_bytes, silent(&life.write_gaps)));
    page.fact("turns", &format!("{} from writing to reading", life.turns));
    if let Some(tls) = &life.tls {
        let version = match tls.version {
            Some(0x0304) => "1.3".to_owned(),
            Some(0x0303) => "1.2".to_owned(),
            Some(other) => format!("{other:#06x}"),
            None => "of unknown version".to_owned(),
        };
        let alpn = if tls.alpn.is_empty() { String::new() } else { format!(", offers {}", tls.alpn.join(", ")) };
        let name = tls.sni.as_deref().map(|sni| format!(" for {sni}")).unwrap_or_default();
        page.fact("tls", &format!("{version}{name}{alpn}"));
    }
    if let Some((header, us)) = life.http.as_ref().and_then(|http| http.deadline_us.as_ref()) {
        page.fact("deadline", &format!("{} by {header}", long(*us)));
    }
    if let Some(errno) = life.errno {
        page.fact("ended with", &format!("errno {errno}"));
    }
}

fn kernel(page: &mut Lines, socket: &TcpSocket) {
    page.title("WHAT THE KERNEL SAYS");
    page.fact("unread", &format!("{} bytes, for {}", socket.unread_bytes, long(socket.unread_for_us)));
    page.fact("unsent", &format!("{} bytes that the peer has not acknowledged", socket.unsent_bytes));
    let timer = format!("{:?}", socket.timer.kind).to_lowercase();
    page.fact(
        "timer",
        &format!("{timer}, fires in {} ms, fired {} times", socket.timer.expires_ms, socket.timer.fired),
    );
    if let Some(info) = &socket.last {
        let TcpInfo { rtt_us, rto_us, unacked, lost, total_retrans, backoff, probes, .. } = info;
        page.fact("round trip", &format!("{}, retransmit after {}", long((*rtt_us).into()), long((*rto_us).into())));
        page.fact("in flight", &format!("{unacked} segments, {lost} lost, backoff {backoff}, {probes} probes"));
        page.fact("sent again", &format!("{total_retrans} segments since it was opened"));
        let window = info.snd_wnd.map_or_else(|| "not told".to_owned(), |window| format!("{window} bytes"));
        page.fact("window", &format!("{window}, segments of {} bytes, path {}", info.snd_mss, info.pmtu));
        let ago = |ms: u32| long(u64::from(ms) * 1_000);
        let (sent, received) = (ago(info.last_data_sent_ms), ago(info.last_data_recv_ms));
        page.fact("last", &format!("data sent {sent} ago, received {received} ago"));
        if let (Some(received), Some(acked)) = (info.bytes_received, info.bytes_acked) {
            #[expect(clippy::cast_precision_loss, reason = "for the eye")]
            let (received, acked) = (amount(received as f64), amount(acked as f64));
            page.fact("carried", &format!("{received} bytes received, {acked} sent and acknowledged"));
        }
    }
    if let Some(pid) = socket.peer_pid {
        page.fact("peer", &format!("process {pid} of this host"));
    }
    if let Some(unread) = socket.peer_unread_bytes {
        page.fact("peer", &format!("has {unread} bytes unread"));
    }
    if let Some(backlog) = socket.peer_listener {
        page.fact("accepting", &format!("{} wait in the peer's queue of {}", backlog.queued, backlog.backlog));
    }
}

/// One thread: what it waits for, and where.
pub(crate) fn thread(picture: &Picture, tid: u32, columns: usize) -> Vec<String> {
    let threads = picture.seen.threads.iter().flat_map(|threads| &threads.threads);
    let Some(thread) = threads.into_iter().find(|thread| thread.tid == tid) else {
        return vec!["This thread has ended.".to_owned()];
    };
    let Thread { name, looks, looks_in_state, blocked_us, cpu_us, .. } = thread;
    let mut page = Lines::new(columns);
    page.title(&format!("THREAD {tid} {}", harmless(name)));
    page.fact("state", &format!("{:?}, at {looks_in_state} of {looks} looks", thread.state).to_lowercase());
    let longer = if thread.since_before { " or longer" } else { "" };
    page.fact("blocked", &format!("{}{longer} without a switch", long(*blocked_us)));
    page.fact("cpu", &format!("{} of the last {}", long(*cpu_us), long(picture.seen.window_us)));
    if let Some(us) = thread.runqueue_us {
        page.fact("ready", &format!("{} without a processor", long(us)));
    }
    let (voluntary, taken) = (thread.voluntary_switches, thread.involuntary_switches);
    page.fact("switches", &format!("{voluntary} of its own will, {taken} not"));
    if let Some(blocked) = &thread.blocked_in {
        page.title("IT IS IN");
        let on = blocked.what.as_deref().map(|what| format!(" on {what}")).unwrap_or_default();
        let fd = blocked.fd.map(|fd| format!(" (fd {fd})")).unwrap_or_default();
        page.fact("call", &format!("{}{on}{fd}", blocked.call));
        let limit = match blocked.timeout_us {
            None => "not known".to_owned(),
            Some(None) => "none: it may wait for ever".to_owned(),
            Some(Some(us)) => long(us),
        };
        page.fact("limit", &limit);
        for member in blocked.waits_for.iter().take(WAITS) {
            let what = member.what.clone().unwrap_or_else(|| "?".to_owned());
            page.fact("waits for", &format!("fd {}: {what}", member.fd));
        }
        let more = blocked.waits_for.len().saturating_sub(WAITS);
        if more > 0 {
            page.fact("", &format!("{more} more"));
        }
    } else if let Some(wchan) = &thread.wchan {
        page.fact("kernel", wchan);
    }
    page.title("STACK, the innermost first");
    match &thread.stack {
        Some(stack) => {
            for frame in stack.frames.iter().take(FRAMES) {
                let name = frame.function.as_deref().or(frame.module.as_deref()).unwrap_or("?");
                let place = frame.at.as_deref().map(|at| format!("  {at}")).unwrap_or_default();
                page.lines.push(harmless(&format!("  {name}{place}")));
            }
            if let Some(cut) = &stack.cut {
                page.fact("", &format!("it ends here: {cut}"));
            }
        }
        None => page.fact("", "not seen"),
    }
    page.lines
}

/// What could not be seen, why, and how to change that.
pub(crate) fn hidden(picture: &Picture, columns: usize) -> Vec<String> {
    let mut page = Lines::new(columns);
    page.title("NOT VISIBLE");
    for line in render::why::hidden_lines(&picture.seen.not_visible) {
        page.fact("", &line);
    }
    if picture.seen.not_visible.is_empty() {
        page.fact("", "nothing: all that can be seen from outside is seen");
    }
    page.lines
}

/// What the keys do.
pub(crate) const HELP: &[&str] = &[
    "KEYS",
    "  up down j k     move           PgUp PgDn   ten lines      g G Home End   ends",
    "  Tab Shift-Tab   next, previous pane        v c t d   verdicts, connections,",
    "                                                       threads, descriptors",
    "  Enter           look closely (a verdict's evidence and fix, a connection's",
    "                  stages, a thread's stack); in the list: watch this process",
    "  Esc Backspace   back; first it takes the filter away",
    "  /               filter by any text of a line; Enter keeps it, Esc drops it",
    "  s > <           sort by the next, the previous column      r   turn it round",
    "  n               what cannot be seen, and how to change that",
    "  p Space         hold the picture; the watch goes on",
    "  ? F1            this help                                  q Ctrl-C   quit",
    "",
    "WHAT IS SHOWN",
    "  Verdicts and rates are of the last 5 to 10 seconds, and renewed each second.",
    "  Of one connection, thread or socket what is said goes back to before that.",
    "  STAGE, FOR      what a connection does now, and for how long",
    "  STALLED, CAUSE  it does not get on: for how long, and why",
    "                  (overdue explain CAUSE says what that means)",
    "  B/S RTT RETR    bytes each second both ways, round trip, segments sent again",
    "  CLOSEW, OLDEST  connections that the peer closed and the process did not;",
    "                  the oldest is as old as this at least",
    "  QUEUE           the fullest accept queue: how many wait, how many may",
    "  ~               an estimate: so much is read and written that it is watched",
    "                  40 ms of each half second",
    "",
    "Nothing is changed in the process, and it is not stopped. Quitting detaches.",
];
