//! Causes met once there is, or should be, a connection: queue, send, wait, receive, and the end of a call for
//! reasons of its own. And `unknown`.

use crate::cause::{Entry, Group};

pub(in crate::cause) static PEER_NOT_READING: Entry = Entry {
    id: "peer-not-reading",
    group: Group::Call,
    stages: &["tls", "send", "wait"],
    title: "The peer does not read what we send",
    meaning: "The peer's receive buffer is full because its application does not read, so it advertises a zero \
              window. Our kernel keeps the data and sends probes. As long as the peer acknowledges the probes \
              this has no end: no timer of the kernel fires, unless TCP_USER_TIMEOUT is set.",
    look_alikes: "`path-lost`: nothing is acknowledged, not even probes. `h2-window-blocked`: the TCP window is \
                  open and Send-Q is 0, HTTP/2 holds the data back. `sender-slow`: Send-Q is 0 because our own \
                  code gives nothing.",
    confirm: &[
        "`ss -tnoi dst HOST`: Send-Q above 0, `timer:(persist,...)` and a growing `rwnd_limited`. A window of 0 \
         is not printed: `snd_wnd` is missing.",
        "On the peer `ss -tnp 'sport = :PORT'`: a large Recv-Q that does not shrink, and the process that should \
         read it.",
        "On the peer `nstat -az TcpExtTCPToZeroWindowAdv`, twice: how often its windows closed.",
    ],
    fix: &[
        "Find out what the peer's reader does instead: blocked, overloaded, or waiting for us to read first (both \
         sides write and nobody reads).",
        "Limit the send stage, and set TCP_USER_TIMEOUT: it also ends a connection whose data cannot be sent.",
        "Put a bound on what is queued for a slow peer, and drop the peer beyond it.",
    ],
};

pub(in crate::cause) static SENDER_SLOW: Entry = Entry {
    id: "sender-slow",
    group: Group::Call,
    stages: &["send"],
    title: "Our own request body gives no bytes",
    meaning: "The connection could take more, but the request body that the caller supplies had nothing to send. \
              The source of the body is the slow part: a file, another connection that is copied through, or code \
              that makes the data. Neither the peer nor the path is at fault. A server or a proxy says the same of a \
              client that does not send its request, head or body, in time.",
    look_alikes: "`peer-not-reading`: Send-Q is not 0, the peer's window is closed. `h2-window-blocked`: the body \
                  has bytes and HTTP/2 may not send them. `local-stall`: the whole process was late, not just \
                  this body.",
    confirm: &[
        "`ss -tnoi dst HOST`: Send-Q 0, `snd_wnd` above 0, `lastsnd` (ms) grows.",
        "`timeout 5 strace -f -yy -tt -e trace=read,recvfrom,write,sendto,writev -p PID`: which source is read, \
         and when it gives something.",
        "If the body is copied from an inbound connection, `ss -tni` for that one: `lastrcv` grows too.",
    ],
    fix: &[
        "Make the data before the call starts, or give the source a limit of its own.",
        "When copying a body through, put a gap limit on the inbound side and pass its end on.",
        "Check for a body that is never ended (a channel whose sender is kept alive, a wrong Content-Length).",
    ],
};

pub(in crate::cause) static PATH_LOST: Entry = Entry {
    id: "path-lost",
    group: Group::Call,
    stages: &["tls", "send", "wait", "receive"],
    title: "Sent data is not acknowledged",
    meaning: "The connection is established, data was sent, and no ACK comes. The kernel sends it again at \
              growing intervals. The path or the peer's host is gone, or a NAT, firewall or load balancer on the \
              path has forgotten the connection. Left alone, the kernel gives up after some 15 minutes \
              (tcp_retries2 15).",
    look_alikes: "`mtu-blackhole`: small segments are acknowledged, large ones are not. `accept-queue-full`: on a \
                  new connection, the server has ignored the end of the handshake. `peer-not-reading`: ACKs come, \
                  with window 0. `server-slow`: everything is acknowledged. ETIMEDOUT or EHOSTUNREACH from a read \
                  is the kernel's own end of this.",
    confirm: &[
        "`ss -tnoi dst HOST`: Send-Q above 0, `timer:(on,TIME,N)` with a growing N, `backoff`, `unacked`, and a \
         `lastack` (ms) that grows.",
        "`tcpdump -ni any 'host HOST and tcp port PORT'`: the same segment leaves again and again. Run it on the \
         peer too: does it arrive?",
        "A new connection, `nc -vz -w 3 HOST PORT`: if that works, the path is fine and only this connection was \
         forgotten.",
    ],
    fix: &[
        "Set TCP_USER_TIMEOUT (for example 10 to 30 s). Keepalive does not help here: it sends nothing while data \
         is in flight.",
        "If it happens on connections that were idle: keep TCP_KEEPIDLE and the pool's idle limit below the idle \
         timeout of every NAT, firewall and load balancer on the path.",
        "Repair the path, or the host that is down.",
    ],
};

pub(in crate::cause) static MTU_BLACKHOLE: Entry = Entry {
    id: "mtu-blackhole",
    group: Group::Call,
    stages: &["tls", "send", "wait", "receive"],
    title: "Small packets pass, full-sized ones disappear",
    meaning: "A link on the path takes only smaller packets, and the ICMP message that would say so is filtered. \
              The handshake and small requests work; the first full-sized segment is lost each time it is sent. \
              Typical places are VPNs, tunnels, overlay networks and a mix of jumbo frames with normal ones.",
    look_alikes: "`path-lost`: small segments are not acknowledged either. `tls-peer-silent` and `server-slow`: \
                  the same seen from here when the large packets are the peer's; on the server the connection has \
                  a Send-Q, and retransmits. Random loss hits all sizes.",
    confirm: &[
        "`ping -c 3 -M do -s 1472 HOST` (IPv4, 1500 bytes with headers): no answer, while `-s 1200` is answered. \
         Take the MTU of your own interface minus 28.",
        "`tracepath -n HOST`: `pmtu`, and the hop where it shrinks or the answers end.",
        "`ss -tnoi dst HOST`: `mss` and `pmtu`; stuck segments of ours show as `unacked` with `backoff`, holes in \
         what comes in as `rcv_ooopack`.",
    ],
    fix: &[
        "Let ICMP through: IPv4 type 3 code 4 (fragmentation needed), IPv6 type 2 (packet too big).",
        "At the tunnel: set the true MTU, and clamp the MSS: `iptables -t mangle -A FORWARD -p tcp --tcp-flags \
         SYN,RST SYN -j TCPMSS --clamp-mss-to-pmtu`.",
        "On the sender: `sysctl -w net.ipv4.tcp_mtu_probing=1` lets TCP (IPv6 too) try smaller segments after \
         repeated losses. A workaround that costs seconds.",
    ],
};

pub(in crate::cause) static H2_WINDOW_BLOCKED: Entry = Entry {
    id: "h2-window-blocked",
    group: Group::Call,
    stages: &["send", "receive"],
    title: "HTTP/2 flow control stops the body",
    meaning: "HTTP/2 has a window for each stream and one for the connection; both start at 65,535 bytes. One is \
              used up, and no WINDOW_UPDATE came (or, for a response, we gave none). A single stream whose body \
              nobody reads can hold the whole connection's window, and so stop all others.",
    look_alikes: "`peer-not-reading`: the same one layer below; there Send-Q is not 0. `server-slow` and \
                  `body-stalled`: the peer has nothing to send. `reader-slow`: bytes wait in our kernel; here \
                  they never left the sender.",
    confirm: &[
        "`ss -tnoi dst HOST`: Send-Q 0, nothing `unacked`, `snd_wnd` above 0: TCP would take more.",
        "`curl --http1.1 -v https://HOST:PORT/`: the same request works without HTTP/2.",
        "`nghttp -nv https://HOST:PORT/`: frames as they come; look at SETTINGS_INITIAL_WINDOW_SIZE and \
         WINDOW_UPDATE.",
        "Go: run with `GODEBUG=http2debug=2`; Envoy: the counters named `flow_control` of the cluster.",
    ],
    fix: &[
        "Read every body to its end, or reset its stream; do not hold responses that nobody reads.",
        "Give credit back as data is consumed (in the h2 crate `release_capacity`).",
        "Large windows for a long path: stream and connection window of at least rate times round trip; the \
         connection window well above that of a stream.",
    ],
};

pub(in crate::cause) static H2_STREAMS_EXHAUSTED: Entry = Entry {
    id: "h2-streams-exhausted",
    group: Group::Call,
    stages: &["queue"],
    title: "No HTTP/2 stream is free on any connection",
    meaning: "The server allows so many concurrent streams on a connection (SETTINGS_MAX_CONCURRENT_STREAMS, \
              often 100 to 250), and all of them are open. The request waits for one to end; nothing was sent. \
              Long-lived streams, such as gRPC watches, keep their slot for as long as they live.",
    look_alikes: "`pool-exhausted`: the limit is our own, on connections or permits. `server-slow`: often the \
                  reason; slow answers keep their streams open. `h2-window-blocked`: the stream is open and its \
                  body does not move.",
    confirm: &[
        "`nghttp -nv https://HOST:PORT/ | grep -i max_concurrent`: the server's limit.",
        "`ss -tn dst HOST:PORT`: the number of connections; times the limit this is the number of requests in \
         flight.",
        "The client's metrics: open streams by method; age of the oldest.",
    ],
    fix: &[
        "Allow more connections to this host.",
        "Long-lived streams: give them connections of their own, and a deadline or maximum age.",
        "Raise the server's limit if it has the capacity (nginx `http2_max_concurrent_streams`, Envoy \
         `max_concurrent_streams`).",
        "If streams are never ended, find the caller that drops neither the response nor the stream.",
    ],
};

pub(in crate::cause) static PEER_RESET: Entry = Entry {
    id: "peer-reset",
    group: Group::Call,
    stages: &["any"],
    title: "The connection was reset",
    meaning: "An RST came on an established connection. The peer's kernel sends one when the application closes \
              with unread data or with linger 0, when data comes after the close, or when it does not know the \
              connection. Firewalls, NATs and load balancers send them in the peer's name. Whether bytes of the \
              response had come decides what may be retried.",
    look_alikes: "`keepalive-race`: the reset follows the first write on a reused connection that was idle. \
                  `connect-refused`: the reset answers the SYN. `closed-early`: a FIN, and so an orderly close. \
                  EPIPE is our own write after the connection was already gone.",
    confirm: &[
        "`tcpdump -nvi any 'host HOST and tcp port PORT and tcp[tcpflags] & tcp-rst != 0'` (IPv4): a TTL that \
         differs from that of the peer's other packets means a box on the path sent it.",
        "On the server `nstat -az TcpExtTCPAbortOnClose TcpExtTCPAbortOnData`: closed with unread data; linger 0, \
         or data after the close.",
        "On the server: did the process crash or restart in that second (`journalctl`, `dmesg`)?",
    ],
    fix: &[
        "Crash or restart: drain connections before the process exits.",
        "A server that answers early (401, 413) should read the rest of the request before it closes.",
        "Idle connections: let the client drop them before the server, NAT or load balancer does.",
        "Retry only what was not processed: idempotent requests, or those of which nothing was sent.",
    ],
};

pub(in crate::cause) static SERVER_SLOW: Entry = Entry {
    id: "server-slow",
    group: Group::Call,
    // On a stream, whose protocol is the user's own, a read that waits for an answer is `receive`.
    stages: &["wait", "receive"],
    title: "The request was received, and no answer came",
    meaning: "All bytes of the request are acknowledged, and no byte of the response came, or its head came after \
              most of the budget. Most likely the peer's application is slow or waits for something itself. The ACK comes from the peer's kernel: the \
              application may not have read the request, or not even have accepted the connection.",
    look_alikes: "Answers that are lost on the way back look the same from here; on the server the connection \
                  then has a Send-Q (`mtu-blackhole` if only large ones). `path-lost`: the request is not \
                  acknowledged. A request that is not complete (a body shorter than its Content-Length) makes the \
                  server wait for us.",
    confirm: &[
        "`ss -tnoi dst HOST`: Send-Q 0, nothing `unacked`; `lastsnd` and `lastrcv` (ms) grow together.",
        "As root on the server `ss -tnp 'sport = :PORT'`. Recv-Q above 0: not read. No process: not accepted. \
         Send-Q above 0: the answer is under way. All 0: it is at work.",
        "`curl -so /dev/null -w '%{time_pretransfer} %{time_starttransfer}\\n' URL`: the difference is the server \
         plus a round trip.",
        "On the server `overdue why --pid PID`, or its own trace of this request.",
    ],
    fix: &[
        "Look at the server: what it waits for (`waits-upstream`, `runtime-blocked`, `cpu-throttled`).",
        "Send it the remaining time (grpc-timeout or another header), so that it stops work nobody waits for.",
        "If the answer is slow by nature: a longer wait limit for this route, or an asynchronous job.",
        "Do not add retries to an overloaded server; shed load instead.",
    ],
};

pub(in crate::cause) static HEAD_STALLED: Entry = Entry {
    id: "head-stalled",
    group: Group::Call,
    stages: &["wait"],
    title: "The response head began, but was not completed",
    meaning: "Some bytes of the response head came, then silence, or a trickle that never reached the empty line. \
              The peer writes its head in pieces and got stuck between them, or the rest is lost. A 100 or 103 \
              response does not count: it is complete, and the real head is still to come.",
    look_alikes: "`server-slow`: not one byte came. `mtu-blackhole`: the rest of the head was in a full-sized \
                  segment; `rcv_ooopack` is not 0, or the server's connection retransmits. `body-stalled`: the \
                  head is complete. A server of another protocol, whose greeting is taken for a head.",
    confirm: &[
        "`curl -v http://HOST:PORT/`: header lines appear as they arrive; see where it stops.",
        "`tcpdump -nAi any 'host HOST and tcp port PORT'` (plain HTTP): which segment was the last, and its size.",
        "On the server `ss -tnoi 'sport = :PORT'`: Send-Q above 0 means lost on the way; 0 means that the server \
         has not written the rest.",
    ],
    fix: &[
        "On the server: build the whole head first and write it at once.",
        "Look for a hook, filter or script that prints a header and then works.",
        "Keep one limit for the whole head. A limit between two reads never fires on a trickle.",
    ],
};

pub(in crate::cause) static CLOSED_EARLY: Entry = Entry {
    id: "closed-early",
    group: Group::Call,
    stages: &["tls", "send", "wait", "receive"],
    title: "The peer closed before the response was complete",
    meaning: "A FIN came before the head, or in the middle of the body. The peer closed in an orderly way: its \
              own timeout, a worker that ended, a proxy that lost its upstream. When a process dies, its kernel \
              also sends FIN (RST if there was unread data), so a crash can look orderly.",
    look_alikes: "`keepalive-race`: a reused connection, closed before any byte of this response. `peer-reset`: \
                  an RST. `protocol-error`: bytes came and made no sense. A body without Content-Length and \
                  chunks ends with the FIN, so there a cut cannot be seen at all.",
    confirm: &[
        "`curl -sS -o /dev/null URL; echo $?`: 52 means closed before the head, 18 in the middle of the body.",
        "`tcpdump -ni any 'host HOST and tcp port PORT'`: who sent the first FIN, and how long after which \
         packet. A round number of seconds is somebody's timeout.",
        "The logs of the server and of each proxy between, at that second: worker exit, out of memory, upstream \
         timeout.",
    ],
    fix: &[
        "A timeout of a proxy: make the inner limits shorter than the outer, so that the error is sent in time.",
        "A crash: `dmesg | grep -i 'killed process'`, core dumps.",
        "Restarts: stop accepting, finish what is in flight, then exit.",
        "A wrong Content-Length: correct the length, for instance after compression.",
    ],
};

pub(in crate::cause) static BODY_STALLED: Entry = Entry {
    id: "body-stalled",
    group: Group::Call,
    stages: &["receive"],
    title: "The response body stopped in the middle",
    meaning: "The head and a part of the body came, then nothing for longer than the gap limit. The connection is \
              healthy: nothing is missing in what we received, and our own buffer is empty. The sender's \
              application has stopped producing, or waits for its own source.",
    look_alikes: "`mtu-blackhole` and loss: segments came out of order or the sender retransmits. \
                  `h2-window-blocked`: we gave no window. `reader-slow`: the bytes are here, and we do not read \
                  them. A stream of events that has no news is meant to be silent.",
    confirm: &[
        "`ss -tnoi dst HOST`: Recv-Q 0, `lastrcv` (ms) grows, no `rcv_ooopack`.",
        "On the server `ss -tnoi 'sport = :PORT'`: Send-Q 0 means that the application writes nothing; Send-Q \
         above 0 with `timer:(on,...)` means that the path loses it.",
        "`curl -N -sS -o /dev/null -w '%{size_download}\\n' --max-time 60 URL`: does it stop at the same byte \
         each time?",
    ],
    fix: &[
        "Look at the server's source for this body: a database cursor, an upstream, a lock.",
        "Event streams: let the server send a heartbeat more often than the gap limit.",
        "Fetch large bodies in ranges, so that a retry goes on where it stopped.",
    ],
};

pub(in crate::cause) static BODY_SLOW: Entry = Entry {
    id: "body-slow",
    group: Group::Call,
    stages: &["receive"],
    title: "The response body comes too slowly to finish in time",
    meaning: "Bytes keep coming, so no gap limit fires. But at this rate the rest of the body cannot arrive \
              before the deadline. One of three is the narrow place: the sender's application, the path, or our \
              own reader.",
    look_alikes: "`body-stalled`: nothing comes any more. `reader-slow`: our Recv-Q is not empty. A body that is \
                  simply larger than the limit was made for.",
    confirm: &[
        "`ss -tnoi dst HOST`, twice: the difference of `bytes_received` over the time is the rate; Recv-Q is 0.",
        "On the server `ss -tnoi 'sport = :PORT'`. `app_limited` and Send-Q 0: its application. Growing \
         `retrans`: loss on the path. Growing `rwnd_limited`: our side.",
        "`curl -sS -o /dev/null -w '%{size_download} %{speed_download} %{time_total}\\n' URL`: size, bytes a \
         second, seconds.",
    ],
    fix: &[
        "Size the total limit by the size of the body and the lowest rate that you accept, or limit gaps instead.",
        "Send less: compression, pages, ranges.",
        "Path: find the loss, or bring the data nearer. Server: buffer the response, look at its disk and \
         upstream.",
    ],
};

pub(in crate::cause) static READER_SLOW: Entry = Entry {
    id: "reader-slow",
    group: Group::Call,
    stages: &["receive"],
    title: "Our own side does not read what has arrived",
    meaning: "Bytes of the response wait in our kernel's receive queue, and the caller does not read them. When \
              the queue is full our kernel closes the window and the peer must stop. The delay is ours, whatever \
              the peer reports.",
    look_alikes: "`body-slow` and `body-stalled`: our Recv-Q is empty. `local-stall`: the whole process was late. \
                  `h2-window-blocked`: the library reads, but gives no window because the caller does not consume.",
    confirm: &[
        "`ss -tnp dst HOST`, several times: Recv-Q stays high.",
        "`timeout 5 strace -f -yy -tt -e trace=/poll,read,recvfrom,recvmsg -p PID`: is the socket read at all, \
         and what is done between two reads?",
        "`nstat -az TcpExtTCPToZeroWindowAdv`, twice: windows that this host closed.",
    ],
    fix: &[
        "Do slow work (disk, database, a downstream write) in another task than the one that reads.",
        "If the slowness is a downstream's: pass the back pressure on, with a limit for it.",
        "Drop bodies that are not wanted, and close their connection.",
    ],
};

pub(in crate::cause) static POOL_EXHAUSTED: Entry = Entry {
    id: "pool-exhausted",
    group: Group::Call,
    stages: &["queue"],
    title: "No connection or permit was free",
    meaning: "All connections of the pool, or all permits for this host, were in use, and none came back before \
              the limit. Nothing was sent. The number in use is the rate of calls times how long each one takes \
              (Little's law), so a peer that became slow fills a pool that was large enough before. Of a server that \
              was watched, all places inside it are taken (nginx's `worker_connections`, haproxy's `maxconn` of a \
              server): it closes on callers at once, or lets them wait although it has accepted them.",
    look_alikes: "`h2-streams-exhausted`: connections are there, their streams are taken. `server-slow`: often \
                  the reason; look at the calls that hold the connections. A leak: calls that ended without \
                  giving their connection back.",
    confirm: &[
        "`ss -tnpi dst HOST:PORT`: as many connections as the pool allows. A large `lastsnd` and `lastrcv` (ms) \
         on all of them is a leak, or a peer that does not answer.",
        "Calls a second times their mean duration: above the size of the pool, it cannot work.",
        "The pool's metrics: in use, waiting, age of the oldest loan.",
        "Of nginx its error log: `worker_connections are not enough`. Of haproxy `show stat`: `qcur` of the server.",
    ],
    fix: &[
        "Find what holds the connections: slow calls, response bodies that are neither read nor dropped, a call \
         made while holding another connection.",
        "Give every call a total limit, so that no connection is held for ever.",
        "Enlarge the pool only if the peer can take more.",
        "Keep the queue limit short: a call that waited long is rarely of use.",
    ],
};

pub(in crate::cause) static BREAKER_OPEN: Entry = Entry {
    id: "breaker-open",
    group: Group::Call,
    stages: &["queue"],
    title: "Refused here by the circuit breaker",
    meaning: "Earlier calls to this peer failed, so the breaker refuses new ones for a while and nothing is sent. \
              This is a consequence; the cause is in the calls that opened it. From time to time a trial call \
              goes through, and closes the breaker if it succeeds.",
    look_alikes: "`pool-exhausted` and `budget-spent`: refused here too, for other reasons. A breaker of a proxy: \
                  the refusal comes over the network as a 503 (Envoy: response flag UO).",
    confirm: &[
        "The last errors before the breaker opened: their cause is the one to explain.",
        "`curl -v http://HOST:PORT/`, past the breaker: is the peer healthy by now?",
        "The breaker's metrics: state, when it opened, results of the trial calls.",
    ],
    fix: &[
        "Fix the cause of the first failures.",
        "If the peer is healthy and the breaker stays open: check its trial calls, and what it counts as a \
         failure (cancelled calls and 4xx are none).",
        "If single bad hosts open it for all: keep a breaker for each host.",
    ],
};

pub(in crate::cause) static BUDGET_SPENT: Entry = Entry {
    id: "budget-spent",
    group: Group::Call,
    stages: &["any"],
    title: "Too little time was left to start",
    meaning: "What remained until the deadline could not fit the work, or a retry with its backoff, so nothing \
              was sent. The time was spent before: in our own code, in earlier attempts, or by the caller. The \
              refusal is deliberate: an answer after the deadline is of use to nobody.",
    look_alikes: "`limit-inverted`: the budget was too small from the start, whatever happens. `local-stall`: the \
                  time went into a late process. `server-slow`: the time went into an earlier attempt; its own \
                  verdict says so.",
    confirm: &[
        "The timeline in the report: which stage or attempt used the time; `clipped_by` names whose deadline it \
         was.",
        "The inbound request's remaining time (grpc-timeout, x-envoy-expected-rq-timeout-ms): was it already \
         short when it came in?",
        "`overdue audit DIR`: does the chain of limits fit together at all?",
    ],
    fix: &[
        "Shorten what used the time: the slow stage, or the number and length of attempts.",
        "Give each attempt a limit, so that the first one cannot use the whole budget.",
        "If the work needs more time than the caller gives, change the caller's limit.",
    ],
};

pub(in crate::cause) static LOCAL_STALL: Entry = Entry {
    id: "local-stall",
    group: Group::Call,
    stages: &["stall"],
    title: "This process itself was late",
    meaning: "A timer fired, or a task ran, much later than it should have. So the delay was measured on this \
              machine: an executor blocked by a long computation or a blocking call, a garbage collection, no \
              free CPU, a cgroup quota, or a paused virtual machine. The network may be innocent.",
    look_alikes: "Every other verdict of the same moment is suspect: answers may have been waiting in the kernel. \
                  `cpu-throttled` and `runtime-blocked` say which kind it is. `reader-slow`: one reader is slow, \
                  the rest of the process is not.",
    confirm: &[
        "`cat /proc/PID/task/TID/schedstat`, twice: the second number is the time, in ns, that the thread was \
         ready and got no CPU. It grows: no CPU. It does not: blocked in its own code.",
        "`cat /sys/fs/cgroup/PATH/cpu.stat`, PATH from `/proc/PID/cgroup`: growing `nr_throttled` and \
         `throttled_usec`.",
        "`vmstat 1`: `r` above the number of CPUs is overload; `st` is CPU that the hypervisor took.",
        "`top -H -p PID`, and `gdb -p PID -batch -ex 'thread apply all bt'` (stops the process for a moment): \
         what the threads do.",
    ],
    fix: &[
        "Move blocking calls and long computations off the event loop.",
        "Raise the CPU quota, or run no more worker threads than the quota has CPUs.",
        "Garbage collection or swap: more memory, smaller heap, no swap (`vmstat`: `si`, `so`).",
    ],
};

pub(in crate::cause) static CANCELLED_BY_CALLER: Entry = Entry {
    id: "cancelled-by-caller",
    group: Group::Call,
    stages: &["any"],
    title: "The caller cancelled the call",
    meaning: "The call's context was cancelled before a limit fired. The verdict says by whom and why: the \
              inbound client went away, a sibling call failed, another attempt won, a shutdown. Neither the peer \
              nor the path is accused; the call may have been slow all the same.",
    look_alikes: "A deadline that fired is not this: then a limit is named. An inbound client that ran into its \
                  own timeout shows here as a cancellation: the limit is in the client. When the loser of two \
                  parallel attempts is cancelled, all is well.",
    confirm: &[
        "The cancel reason in the report, and the stage and elapsed time at that moment.",
        "Proxy logs of the same request: nginx status 499, Envoy response flag DC, HAProxy a termination state \
         that starts with C: the client closed.",
        "Elapsed times of many such calls: the same round number each time is a client's timeout.",
    ],
    fix: &[
        "If clients time out: find the slow stage, or send them an error before their limit.",
        "If it is a shutdown: drain first, cancel what is left afterwards.",
        "Do not count these as failures of the peer.",
    ],
};

pub(in crate::cause) static PROTOCOL_ERROR: Entry = Entry {
    id: "protocol-error",
    group: Group::Call,
    stages: &["any"],
    title: "The peer broke the rules of its protocol",
    meaning: "Bytes came that are no valid HTTP/1, HTTP/2 or gRPC at that place: a malformed head, a wrong chunk \
              size, a frame out of order, a gRPC response without trailers. Either the peer, or something \
              between, has a bug, or the two ends speak different protocols.",
    look_alikes: "Plain HTTP to a TLS port, or HTTP/1 to a port that expects HTTP/2 (or the reverse), is a wrong \
                  port or scheme. `tls-not-tls`: the same during the handshake. `closed-early`: valid so far, \
                  then cut off. Bytes left over from the response before, on a reused connection, look like a \
                  malformed head.",
    confirm: &[
        "`curl -v --http1.1 URL` and `curl -v --http2 URL` (`--http2-prior-knowledge` for plain text): which one \
         fails, and with what message.",
        "`tcpdump -nXi any 'host HOST and tcp port PORT'` (plain text): the first bytes of the answer.",
        "`openssl s_client -connect HOST:PORT -servername HOST -alpn h2 </dev/null`: the ALPN protocol that was \
         agreed on.",
        "The same request straight to the server, without the proxy between.",
    ],
    fix: &[
        "Correct the port, the scheme or the protocol version of this route (gRPC needs HTTP/2 on every hop).",
        "Let proxies pass HTTP trailers through.",
        "A bug of the peer: upgrade it, and close the connection; nothing on it can be trusted.",
    ],
};

pub(in crate::cause) static UNKNOWN: Entry = Entry {
    id: "unknown",
    group: Group::Call,
    stages: &["any"],
    title: "The evidence does not name a cause",
    meaning: "A limit fired or a wait was seen, but what could be observed fits several causes, or none. Without \
              evidence there is no verdict. The report lists under `not_visible` what could not be seen, why, and \
              how to change that. Of a process: its callers wait for an answer, or to be accepted, while its \
              threads sit where nothing tells why.",
    look_alikes: "Any other cause. The verdict's list of rejected alternatives says which were ruled out, and by \
                  what. Time under `unaccounted` belongs to no stage, and is not the network's.",
    confirm: &[
        "A process: `overdue flame --pid PID --wait`: where its threads are. Who holds a lock is in its memory: \
         `gdb -p PID -batch -ex 'thread apply all bt'`, which stops it for a moment.",
        "`overdue doctor`: what can be seen on this machine and what cannot.",
        "As root `overdue why --pid PID --for 30s`, while it happens: the kernel's own view.",
        "`ss -tnpoi dst HOST`, while it happens: Send-Q, Recv-Q, the timer and `unacked` rule out most causes.",
    ],
    fix: &[
        "Repeat with more privilege, and on both ends.",
        "Keep a recording (`overdue why --pid PID --record FILE`) and judge it again later, or attach it to a \
         report.",
    ],
};
