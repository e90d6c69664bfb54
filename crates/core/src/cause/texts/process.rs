//! Causes found in a running process as a whole: spins, leaks, pile-ups, stalls.

use crate::cause::{Entry, Group};

pub(in crate::cause) static SPIN_ZERO_TIMEOUT: Entry = Entry {
    id: "spin-zero-timeout",
    group: Group::Process,
    stages: &["any"],
    title: "An event loop polls with timeout 0 and finds nothing",
    meaning: "epoll_wait or poll is called at a high rate with timeout 0 and returns 0 events. The loop believes \
              that it has something to do at once: a timer in the past that is never removed, a task that wakes \
              itself, or a remaining time of less than 1 ms rounded down to 0. A CPU is burnt without progress.",
    look_alikes: "`spin-short-timer`: the timeout is 1 ms, not 0. `spin-half-closed` and `spin-error-fd`: poll \
                  returns an event each time. Busy polling on purpose (DPDK, some trading and storage software) \
                  looks the same. A runtime that polls with 0 between real pieces of work is healthy; then other \
                  calls appear in between.",
    confirm: &[
        "`top -H -p PID`: a thread near 100 %.",
        "`perf trace -s -p PID -- sleep 5`: which calls, how many; costs far less than strace.",
        "`timeout 2 strace -f -tt -e trace=/poll -p PID`: the timeout is 0 (the last argument of poll and \
         epoll_wait, the fourth of epoll_pwait), and `= 0` means that nothing was ready. strace slows the process \
         down.",
        "`perf record -g -p PID -- sleep 5`, then `perf report`: who calls poll.",
    ],
    fix: &[
        "Round remaining times up to the next millisecond, never down (or use epoll_pwait2).",
        "Remove a timer when it has fired; do not re-arm it with a time in the past.",
        "Look for a future or callback that wakes itself each time it is run.",
    ],
};

pub(in crate::cause) static SPIN_SHORT_TIMER: Entry = Entry {
    id: "spin-short-timer",
    group: Group::Process,
    stages: &["any"],
    title: "An event loop wakes every millisecond for nothing",
    meaning: "Poll times out after about 1 ms, finds nothing, and starts again: hundreds of wake-ups a second for \
              each thread. A timer is re-armed too short: a deadline in the past that is clamped to 1 ms, a tick \
              of 1 ms, or a sleep in a loop instead of an event. It costs a few percent of a CPU for each thread, \
              and power.",
    look_alikes: "`spin-zero-timeout`: timeout 0, a whole CPU. A timer wheel with a fine tick in a busy process: \
                  there most wake-ups do work. A timerfd or another thread that wakes the loop: then poll returns \
                  an event.",
    confirm: &[
        "`timeout 2 strace -f -tt -T -e trace=/poll -p PID`: timeout 1, `= 0`, about 0.001 s each.",
        "`perf trace -s -p PID -- sleep 5`: calls a second; the time of each call near 1 ms.",
        "`pidstat -w -t -p PID 1`: voluntary context switches of each thread.",
    ],
    fix: &[
        "Compute the next timeout from the earliest timer; wait without limit if there is none.",
        "Replace sleep-and-check loops by an event (eventfd, condition variable, channel).",
        "Check what happens to a deadline that has already passed: it must fire, not be armed again.",
    ],
};

pub(in crate::cause) static SPIN_HALF_CLOSED: Entry = Entry {
    id: "spin-half-closed",
    group: Group::Process,
    stages: &["any"],
    title: "A closed peer keeps an event loop awake",
    meaning: "The peer has sent FIN, and a level-triggered poller reports the socket as readable for ever. \
              Reading the end of file does not clear this: EPOLLIN and EPOLLRDHUP stay set until the socket is \
              closed or taken out of the set. The loop ignores the event, and spins.",
    look_alikes: "`spin-error-fd`: the events are EPOLLERR or EPOLLHUP. `spin-accept-emfile`: the descriptor is a \
                  listener. `close-wait-pileup`: sockets in the same state without a spin (edge-triggered, or not \
                  polled).",
    confirm: &[
        "`timeout 2 strace -f -yy -e trace=/poll,read,recvfrom -p PID`: the same `data` with EPOLLIN or \
         EPOLLRDHUP each time; no read, or a read that returns 0.",
        "`cat /proc/PID/fdinfo/FD`, with FD of the epoll instance: finds the descriptor (`tfd`) for that `data`, \
         in hex.",
        "`ss -tnp state close-wait | grep pid=PID,`: Recv-Q 1 means that the FIN is unread, 0 that it was read.",
    ],
    fix: &[
        "When read returns 0: close the socket, or take EPOLLIN and EPOLLRDHUP out of its interest set.",
        "When nothing can be read at the moment (back pressure): do not leave the read interest on.",
        "Edge-triggered mode avoids the spin, not the forgotten socket.",
    ],
};

pub(in crate::cause) static SPIN_ERROR_FD: Entry = Entry {
    id: "spin-error-fd",
    group: Group::Process,
    stages: &["any"],
    title: "An unhandled error event keeps an event loop awake",
    meaning: "EPOLLERR or EPOLLHUP is reported for the same descriptor again and again, and the loop handles only \
              reads and writes. Both events are reported even if nobody asked for them, so an empty interest set \
              does not silence them. Only handling the error, removing the descriptor or closing it does.",
    look_alikes: "`spin-half-closed`: EPOLLIN or EPOLLRDHUP, no error. A TCP socket that is in the set but was \
                  never connected reports EPOLLHUP. A pipe whose reader is gone reports EPOLLERR to its writer. \
                  EPOLLERR with a healthy UDP or timestamping socket: its error queue was not read.",
    confirm: &[
        "`timeout 2 strace -f -yy -e trace=/poll -p PID`: the same `data` with EPOLLERR or EPOLLHUP each time.",
        "`cat /proc/PID/fdinfo/FD`, with FD of the epoll instance: finds the descriptor (`tfd`) for that `data`, \
         in hex.",
        "`ls -l /proc/PID/fd/FD`: what the descriptor is.",
    ],
    fix: &[
        "On EPOLLERR: read SO_ERROR (and the error queue, recvmsg with MSG_ERRQUEUE), then close, or \
         EPOLL_CTL_DEL. Reading SO_ERROR clears EPOLLERR, not EPOLLHUP.",
        "Treat EPOLLHUP as the end: read what is left, then close.",
        "Add a socket to the set only after connect was called.",
    ],
};

pub(in crate::cause) static SPIN_ACCEPT_ERROR: Entry = Entry {
    id: "spin-accept-error",
    group: Group::Process,
    stages: &["accept"],
    title: "accept() fails again and again",
    meaning: "The listener is ready each time, accept fails each time, and the loop tries again at once. EINVAL: \
              the socket does not listen any more, for instance after shutdown(). ENOBUFS or ENOMEM: no memory \
              for a socket; EPERM: a filter or security module forbids it.",
    look_alikes: "`spin-accept-emfile`: the error is EMFILE or ENFILE. EAGAIN at a high rate is no failure: \
                  several threads wake for one connection (use EPOLLEXCLUSIVE or SO_REUSEPORT). ECONNABORTED and \
                  EINTR now and then are normal.",
    confirm: &[
        "`timeout 2 strace -f -yy -e trace=accept,accept4 -p PID`: the errno.",
        "`ss -ltnp | grep pid=PID,`: is the socket still in LISTEN?",
        "`dmesg | tail`, `grep ^TCP /proc/net/sockstat` (`mem` in pages, against net.ipv4.tcp_mem): memory.",
    ],
    fix: &[
        "Sort the errors: try again at once on EINTR and ECONNABORTED; wait (100 ms, say) on ENOBUFS and ENOMEM; \
         end the loop and report on EINVAL, EBADF and EPERM.",
        "Find who shuts the listener down or replaces its descriptor.",
    ],
};

pub(in crate::cause) static SPIN_ACCEPT_EMFILE: Entry = Entry {
    id: "spin-accept-emfile",
    group: Group::Process,
    stages: &["accept"],
    title: "accept() fails with EMFILE in a tight loop",
    meaning: "No descriptor is left, so accept fails and the connection stays in the queue. A level-triggered \
              poller reports the listener as ready again at once, and the loop spins. Clients see a connection \
              that is established and silent.",
    look_alikes: "`fd-leak`: why the descriptors are gone; look there first. `spin-accept-error`: another errno. \
                  `accept-queue-overflow`: what follows when the queue is full too. With an edge-triggered poller \
                  there is no spin, but the server goes deaf.",
    confirm: &[
        "`timeout 2 strace -f -e trace=accept,accept4 -p PID`: EMFILE (this process), ENFILE (the whole system).",
        "`ls /proc/PID/fd | wc -l` against `grep 'open files' /proc/PID/limits`.",
        "`ss -ltn 'sport = :PORT'`: Recv-Q is above 0 and stays so.",
    ],
    fix: &[
        "At once: `prlimit --pid PID --nofile=SOFT:HARD` gives the running process more.",
        "Stop polling the listener on EMFILE, and start again when a descriptor was closed or after a short wait.",
        "Accept no more connections than the limit allows, minus a reserve for files and upstream connections.",
        "Find the leak, or close idle connections sooner.",
    ],
};

pub(in crate::cause) static FD_LEAK: Entry = Entry {
    id: "fd-leak",
    group: Group::Process,
    stages: &["connect", "accept"],
    title: "Open descriptors grow towards the limit",
    meaning: "The process opens descriptors and does not close all of them, so their number only grows. At \
              RLIMIT_NOFILE every open, socket and accept fails with EMFILE. The kind and the peer of those that \
              grow name the piece of code.",
    look_alikes: "A warm-up or a rise of traffic: then the number follows the load down again. \
                  `close-wait-pileup`: a leak of sockets whose peers have closed. `spin-accept-emfile` and \
                  `fd-exhausted`: what comes when the limit is reached.",
    confirm: &[
        "`watch -n 5 'ls /proc/PID/fd | wc -l'` against `grep 'open files' /proc/PID/limits`.",
        "`ls -l /proc/PID/fd | awk '{print $NF}' | sed 's/\\[.*//' | sort | uniq -c | sort -rn | head`: by kind.",
        "`ss -Htanp | grep pid=PID, | awk '{print $1, $5}' | sort | uniq -c | sort -rn | head`: TCP sockets by \
         state and peer.",
        "`timeout 10 strace -f -k -e trace=socket,accept4,openat -p PID`: the stack of each call that opens one \
         (slow).",
    ],
    fix: &[
        "Close on every path, errors and early returns first; let scope or ownership do it (defer, with, RAII).",
        "HTTP clients: read and close every response body; share one client instead of making one for each \
         request.",
        "Until then: raise the limit, restart before it is reached, and alert at 80 %.",
    ],
};

pub(in crate::cause) static CLOSE_WAIT_PILEUP: Entry = Entry {
    id: "close-wait-pileup",
    group: Group::Process,
    stages: &["any"],
    title: "Peers have closed, and the application does not",
    meaning: "The peer's FIN came, and the kernel waits for this application to call close. No timer of the \
              kernel ends CLOSE-WAIT, so a growing number is always a matter of the program on this side. Each \
              one holds a descriptor.",
    look_alikes: "`fin-wait2-pileup`: the same connection, seen from the other end. TIME-WAIT in large numbers is \
                  normal for the side that closes first, and ends after 60 s. A few in CLOSE-WAIT for a short \
                  time are normal: idle connections in a pool that nobody has looked at yet.",
    confirm: &[
        "`ss -tnp state close-wait`: by process and peer. Recv-Q 0: the application has read the end of file and \
         did not close. Recv-Q 1 or more: it does not read.",
        "Look again after a minute: the same local ports are still there.",
        "`gdb -p PID -batch -ex 'thread apply all bt'` (stops the process for a moment): handlers that are stuck \
         before their close.",
    ],
    fix: &[
        "Close the socket when read returns 0, and on every error path.",
        "HTTP clients: close response bodies, and let the pool drop idle connections.",
        "If handlers are stuck, their wait is the cause: give it a limit.",
    ],
};

pub(in crate::cause) static FIN_WAIT2_PILEUP: Entry = Entry {
    id: "fin-wait2-pileup",
    group: Group::Process,
    stages: &["any"],
    title: "We closed our half, and the peers do not close theirs",
    meaning: "Our FIN is acknowledged, the peer's does not come. If the socket was closed, the kernel drops it \
              after net.ipv4.tcp_fin_timeout (60 s). If only the write half was shut down and the descriptor is \
              still open, it stays for ever.",
    look_alikes: "`close-wait-pileup`: the same connection, seen from the other end; it is the peer that should \
                  be repaired. FIN-WAIT-1 in large numbers: our FIN is not even acknowledged, the path or the \
                  peer's host is gone.",
    confirm: &[
        "As root `ss -tnpo state fin-wait-2`: with a process, the descriptor is still held, and no timer runs. \
         Without a process, `timer:(timewait,...)` counts down.",
        "On the peer `ss -tnp state close-wait`: who does not close.",
    ],
    fix: &[
        "After shutdown(SHUT_WR), read until the end of file with a limit, then close.",
        "Repair the peer: it must close when it has read our end of file.",
        "Orphans: TCP_LINGER2 shortens the wait for one socket, net.ipv4.tcp_fin_timeout for all.",
    ],
};

pub(in crate::cause) static HALF_OPEN_PILEUP: Entry = Entry {
    id: "half-open-pileup",
    group: Group::Process,
    stages: &["accept"],
    title: "Inbound handshakes do not finish",
    meaning: "SYNs come in and are answered, but the last ACK is missing, so connections stay in SYN-RECV for \
              about 63 s (tcp_synack_retries 5). Few sources: our SYN-ACK does not reach them, or their ACK does \
              not reach us (the way back, a firewall). Many sources: a SYN flood, often with forged addresses.",
    look_alikes: "`accept-queue-overflow`: the ACK came, and was ignored because the accept queue is full. With \
                  TCP_DEFER_ACCEPT (nginx `deferred`, Apache) a connection stays in SYN-RECV until it sends data. \
                  Once SYN cookies are sent, a flood leaves no SYN-RECV entries: look at the counters.",
    confirm: &[
        "`ss -Htn state syn-recv | awk '{print $4}' | sed 's/:[0-9]*$//' | sort | uniq -c | sort -rn | head`: by \
         source.",
        "`nstat -az TcpExtSyncookiesSent TcpExtTCPReqQFullDoCookies TcpExtTCPReqQFullDrop TcpExtListenOverflows`, \
         twice.",
        "`tcpdump -ni any 'tcp port PORT and host ADDRESS'` for one source: SYN-ACKs are sent again, no ACK comes.",
    ],
    fix: &[
        "Few sources: repair the way back (route, asymmetric firewall, NAT).",
        "Many: keep net.ipv4.tcp_syncookies=1 (the default), raise net.ipv4.tcp_max_syn_backlog and the backlog \
         of listen(), and filter upstream.",
        "Never lower tcp_synack_retries so far that a client on a poor line cannot connect.",
    ],
};

pub(in crate::cause) static ACCEPT_QUEUE_OVERFLOW: Entry = Entry {
    id: "accept-queue-overflow",
    group: Group::Process,
    stages: &["accept"],
    title: "This server does not accept fast enough",
    meaning: "Connections wait in our own listener's queue until it is full; then the kernel ignores new ones, \
              and clients see an unanswered SYN or silence. The accepting thread does something else: works on a \
              request, waits for a lock, or is out of descriptors. Its stack says what.",
    look_alikes: "`half-open-pileup`: handshakes that do not finish. `spin-accept-emfile`: accept is called, and \
                  fails. A process that is stopped (state T) or frozen. A queue that fills for an instant in a \
                  burst and is empty otherwise: then the backlog is too small.",
    confirm: &[
        "`ss -ltnp 'sport = :PORT'`: Recv-Q waits, Send-Q is the limit. With SO_REUSEPORT each worker has its own \
         line and queue; one stuck worker fills only its own.",
        "`nstat -az TcpExtListenOverflows TcpExtListenDrops`, twice: growing.",
        "`timeout 5 strace -f -tt -e trace=accept,accept4 -p PID`: how often, with what result.",
        "`ps -L -o tid,stat,wchan:32,comm -p PID`, and `gdb -p PID -batch -ex 'thread apply all bt'`: what the \
         accepting thread does.",
    ],
    fix: &[
        "Accept in a thread or task that does nothing else, not even TLS handshakes.",
        "Accept until EAGAIN at each wake-up (a must with edge-triggered epoll).",
        "Bursts: a larger backlog in listen(), and net.core.somaxconn at least as large; restart or reload after \
         it.",
    ],
};

pub(in crate::cause) static TLS_HANDSHAKE_STORM: Entry = Entry {
    id: "tls-handshake-storm",
    group: Group::Process,
    stages: &["tls"],
    title: "TLS handshakes fail at a high rate",
    meaning: "Clients connect, fail in the handshake and come again at once. Each attempt costs this server a \
              signature, so good clients become slow as well. The usual start is an expired or changed \
              certificate, a client with an old CA, or a scanner; the source addresses tell which.",
    look_alikes: "Health checks of a load balancer that only open TCP and close: regular, few sources, no \
                  ClientHello. `connection-churn`: handshakes succeed, the connections are short. A restart that \
                  makes all clients connect anew: it ends by itself.",
    confirm: &[
        "`tcpdump -ni any 'dst port PORT and tcp[tcpflags] & (tcp-syn|tcp-ack) = tcp-syn'` (IPv4): new \
         connections by source.",
        "The server's TLS errors by kind: certificate expired or unknown ca (sent by clients), no shared cipher, \
         end of file.",
        "`openssl s_client -connect HOST:PORT -servername HOST -verify_hostname HOST </dev/null`, from such a \
         client.",
        "`perf top -p PID`: time in signing functions.",
    ],
    fix: &[
        "Repair the certificate, chain or CA that the alert names.",
        "Clients: backoff with jitter after a failed handshake.",
        "Limit new connections by source address before the handshake; let health checks speak TLS or use another \
         port.",
    ],
};

pub(in crate::cause) static CONNECTION_CHURN: Entry = Entry {
    id: "connection-churn",
    group: Group::Process,
    stages: &["connect", "accept"],
    title: "Connections are opened and dropped at a high rate",
    meaning: "Many connections are opened, do little or nothing, and end, often by reset. Each one pays for a \
              handshake, and maybe for TIME-WAIT. The edge is unstable: a peer that resets, a health check that \
              flaps, a client without keep-alive, or a retry loop without backoff.",
    look_alikes: "`tls-handshake-storm`: they end in the TLS handshake. `ports-exhausted`: where it leads on the \
                  side that closes first. Traffic that is made of short calls by nature: then requests grow with \
                  connections.",
    confirm: &[
        "`nstat -z TcpActiveOpens TcpPassiveOpens TcpEstabResets TcpOutRsts`, 10 s apart: each run prints the \
         growth since the one before.",
        "`ss -Htan | awk '{print $1, $5}' | sort | uniq -c | sort -rn | head`: by state and peer.",
        "`tcpdump -ni any 'tcp port PORT and tcp[tcpflags] & (tcp-syn|tcp-fin|tcp-rst) != 0'` (IPv4): who opens, \
         who ends it, and after how long.",
    ],
    fix: &[
        "Keep connections alive on both sides, and use one shared client.",
        "Backoff with jitter wherever something reconnects.",
        "Find the reason for the resets (`peer-reset`) and stabilise that peer; take flapping hosts out of the \
         rotation.",
    ],
};

pub(in crate::cause) static NO_KEEPALIVE: Entry = Entry {
    id: "no-keepalive",
    group: Group::Process,
    stages: &["any"],
    title: "Idle connections that nothing will ever close",
    meaning: "Established sockets are idle, without keepalive and without a timer. If the peer's host or the path \
              disappears, no packet says so, and the socket stays for ever. Linux sends keepalive probes only on \
              sockets that set SO_KEEPALIVE, and then first after 7200 s.",
    look_alikes: "A limit inside the application (idle timeout, heartbeat) also does the job and does not show in \
                  ss. `path-lost`: data is in flight; there retransmission ends the connection, and keepalive \
                  plays no part. `wait-unlimited`: a thread waits on such a socket.",
    confirm: &[
        "`ss -tnpo state established`: sockets without `timer:(keepalive,...)`.",
        "`ss -tnpi state established`: `lastsnd` and `lastrcv` (ms) of hours.",
        "`sysctl net.ipv4.tcp_keepalive_time net.ipv4.tcp_keepalive_intvl net.ipv4.tcp_keepalive_probes`: the \
         defaults that SO_KEEPALIVE uses.",
    ],
    fix: &[
        "Set SO_KEEPALIVE with TCP_KEEPIDLE, TCP_KEEPINTVL and TCP_KEEPCNT, for example 60 s, 10 s, 6. The \
         sysctls alone switch nothing on.",
        "Add TCP_USER_TIMEOUT for data in flight.",
        "Or close idle connections in the application.",
    ],
};

pub(in crate::cause) static WAIT_UNLIMITED: Entry = Entry {
    id: "wait-unlimited",
    group: Group::Process,
    stages: &["any"],
    title: "A wait without any limit",
    meaning: "A thread or task is blocked in a read, connect or poll, and no timer is armed for it. If the peer \
              stays silent, a read never ends; a connect is ended by the kernel after about two minutes. It is an \
              advice while all goes well, and the verdict when the stalled time is spent there. Or threads wait for \
              locks that they hold for each other (a deadlock): nothing ever ends that.",
    look_alikes: "An idle worker or an event loop without work waits without limit too, rightly: it waits for \
                  work, not for an answer. Limits that are kept elsewhere: SO_RCVTIMEO, a watchdog thread, a \
                  timer in the runtime. `no-keepalive`: the same socket, seen from the connection.",
    confirm: &[
        "`timeout 5 strace -f -yy -p PID`: a call that hangs, such as `recvfrom(7<TCP:[...` or `poll(..., -1)`, \
         and which peer it names.",
        "`cat /proc/PID/task/TID/syscall`: the number of the call and its arguments; the first one is the \
         descriptor.",
        "`ss -tnpo dst HOST`: no `timer:(...)` on the connection.",
        "`gdb -p PID -batch -ex 'thread apply all bt'` (stops the process for a moment): whose call it is.",
    ],
    fix: &[
        "Set a limit at that call: SO_RCVTIMEO, a timeout of poll, a context with a deadline, the client's \
         timeout option.",
        "SO_RCVTIMEO does not bound connect; SO_SNDTIMEO or a non-blocking connect does. A value of 0 means no \
         limit.",
        "Set a limit for the whole operation as well: a peer that sends a byte now and then never trips a limit \
         of one read.",
        "A deadlock: take locks in the same order everywhere, or hold one at a time. Until then a restart is all \
         that helps.",
    ],
};

pub(in crate::cause) static IO_STUCK: Entry = Entry {
    id: "io-stuck",
    group: Group::Process,
    stages: &["any"],
    title: "Threads are stuck in uninterruptible sleep",
    meaning: "Threads are in state D: inside the kernel, waiting for a disk, a network file system or a driver. \
              Most such waits ignore signals, and no timeout of the application fires in that thread. They count \
              in the load average but use no CPU.",
    look_alikes: "`cpu-throttled`: threads are ready (R), not in D. `runtime-blocked`: state S, in a lock or a \
                  call. D for some ms now and then is normal disk work; so is the parent of a vfork until the \
                  child has called exec.",
    confirm: &[
        "`ps -eLo pid,tid,stat,wchan:32,comm | awk '$3 ~ /^D/'`, several times: the same threads.",
        "As root `cat /proc/PID/task/TID/stack`: the kernel functions; nfs, fuse, a block or file system name the \
         culprit.",
        "`dmesg | grep 'blocked for more than'`: the kernel's own report after 120 s.",
        "`iostat -x 1` and `cat /proc/pressure/io`: a disk at 100 %, or time lost to I/O.",
    ],
    fix: &[
        "Bring the disk or file server back; the threads then go on by themselves.",
        "NFS: on most kernels SIGKILL does end such a wait; `umount -l` hides the mount, but does not free the \
         threads.",
        "Keep file access out of event loops, and logs off network file systems.",
    ],
};

pub(in crate::cause) static TASK_BACKLOG: Entry = Entry {
    id: "task-backlog",
    group: Group::Process,
    stages: &["handle"],
    title: "Tasks pile up behind one slow thing",
    meaning: "Tasks, goroutines or threads grow, the heap hardly does: they all wait for the same peer, lock or \
              permit. Work comes in faster than that one thing lets it through. When it recovers the pile drains.",
    look_alikes: "`task-leak`: the heap grows too, and nothing drains. `waits-upstream`: the peer that they wait \
                  for. `pool-exhausted`: the permit is a connection.",
    confirm: &[
        "Go: `curl -s 'http://HOST:PORT/debug/pprof/goroutine?debug=1' | head -40`: stacks by count; with debug=2 \
         how many minutes each has waited.",
        "Threads: `ps -L -o wchan:32= -p PID | sort | uniq -c | sort -rn | head`. JVM: `jcmd PID Thread.print`.",
        "tokio: tokio-console, or the runtime's metrics: tasks alive.",
        "`ss -Htnp state established | grep pid=PID, | awk '{print $4}' | sort | uniq -c | sort -rn | head`: most \
         sockets to one peer?",
    ],
    fix: &[
        "Repair or bypass the slow thing that they have in common.",
        "Give the wait a limit, and the number of waiters a bound: refuse early instead of piling up.",
        "If it is a lock: hold it for less, never across a network call.",
    ],
};

pub(in crate::cause) static TASK_LEAK: Entry = Entry {
    id: "task-leak",
    group: Group::Process,
    stages: &["handle"],
    title: "Tasks are started and never end",
    meaning: "Tasks, goroutines or threads grow together with the heap, come from one spawn place, sit in one \
              wait and only get older. Nothing will wake them: the other end of the channel is gone, or the wait \
              has no limit and no cancellation. It ends with the memory.",
    look_alikes: "`task-backlog`: they wait for something slow, and drain when it recovers. `fd-leak`: leaked \
                  tasks often hold sockets. A cache or queue that grows: the heap grows without the tasks.",
    confirm: &[
        "Go: `curl -s 'http://HOST:PORT/debug/pprof/goroutine?debug=2'`: the same stack many times, waiting for \
         hours.",
        "Threads: `ls /proc/PID/task | wc -l`, again after ten minutes; `gdb -p PID -batch -ex 'thread apply all \
         bt'` for the stack they share.",
        "tokio: tokio-console: tasks by spawn location, sorted by age.",
        "`grep -E 'VmRSS|Threads' /proc/PID/status`, over time, with the load gone.",
    ],
    fix: &[
        "Give each task a way to end: a context, a deadline, a channel that is closed.",
        "Tie tasks to a scope that ends them (errgroup, JoinSet, structured concurrency).",
        "Go: a send to an unbuffered channel that nobody reads any more is the classic; a buffer of 1 or a select \
         on ctx.Done() ends it.",
    ],
};

pub(in crate::cause) static RUNTIME_BLOCKED: Entry = Entry {
    id: "runtime-blocked",
    group: Group::Process,
    stages: &["stall", "handle"],
    title: "Event-loop threads sit in a blocking call",
    meaning: "Threads that should run many tasks are stuck in one: a blocking read, a name lookup, file access, a \
              lock, a long computation. Everything else on them waits: answers are not read, timers fire late, \
              health checks fail. The stack names the call.",
    look_alikes: "`cpu-throttled`: the threads want to run and may not. `io-stuck`: state D. An idle loop also \
                  sleeps, but in its poller (or, for spare tokio workers, in a futex), with nothing to do.",
    confirm: &[
        "`ps -L -o tid,stat,wchan:32,comm -p PID`, several times: workers that sit in anything but the poller.",
        "`gdb -p PID -batch -ex 'thread apply all bt'` (stops the process for a moment): the blocking call under \
         the runtime's poll function.",
        "`timeout 5 strace -f -T -p PID`: calls of the loop threads that take long, other than poll.",
        "Recv-Q in `ss -tnp | grep pid=PID,` above 0 on many sockets: the answers are here, unread.",
    ],
    fix: &[
        "Move the call to a blocking pool (spawn_blocking, a worker thread), or use its asynchronous form.",
        "Do not hold a lock across await, nor take a contended one on a loop thread.",
        "Split long computations, or run them on threads of their own.",
    ],
};

pub(in crate::cause) static DNS_SERIALISED: Entry = Entry {
    id: "dns-serialised",
    group: Group::Process,
    stages: &["resolve"],
    title: "Lookups queue behind few resolver threads",
    meaning: "getaddrinfo blocks, so runtimes run it on a pool of threads. When one server is slow, a few lookups \
              hold all threads, and every other name waits although its server is fast. In Node.js the pool has 4 \
              threads (UV_THREADPOOL_SIZE), and file access shares them.",
    look_alikes: "`dns-slow`: each query is slow on the wire. `dns-no-answer`: the queries that hold the threads \
                  may be of this kind. `runtime-blocked`: getaddrinfo is called on the loop itself.",
    confirm: &[
        "`gdb -p PID -batch -ex 'thread apply all bt' | grep -c getaddrinfo`: as many as the pool has threads.",
        "`timeout 5 strace -f -yy -tt -e trace=connect,sendto,sendmmsg -p PID 2>&1 | grep -E ':53\\]|htons.53'`: \
         never more than a few queries at the same time, the next starts when one ends.",
        "`time getent ahosts HOST`, meanwhile, in another process: fast.",
    ],
    fix: &[
        "Use an asynchronous resolver (c-ares, hickory; in Node.js dns.resolve instead of dns.lookup).",
        "Cache answers in the process or on the host; keep connections so that fewer names are looked up.",
        "Enlarge the pool (`UV_THREADPOOL_SIZE=64`), and shorten the resolver's timeout (`options timeout:1 \
         attempts:2`).",
    ],
};

pub(in crate::cause) static CPU_THROTTLED: Entry = Entry {
    id: "cpu-throttled",
    group: Group::Process,
    stages: &["stall"],
    title: "The process is ready to run and gets no CPU",
    meaning: "Threads are runnable and do not run: the cgroup has used up its CPU quota, or other processes or \
              the hypervisor have the CPU. With a quota, many threads can burn the share of a 100 ms period in \
              its first milliseconds, and then all stand still until the next. Timeouts follow, and the network \
              gets the blame.",
    look_alikes: "`cpu-busy`: it does run, and needs more. `runtime-blocked`: threads sleep in a call. Average \
                  CPU use says nothing here: throttling happens well below 100 % of the quota.",
    confirm: &[
        "`cat /sys/fs/cgroup/PATH/cpu.stat`, twice, PATH from `/proc/PID/cgroup`: `nr_throttled` and \
         `throttled_usec` grow. `cpu.max` beside it: quota and period in us. Look at the parent directories too.",
        "`cat /proc/PID/task/TID/schedstat`, twice: the second number, ns of waiting while ready, grows.",
        "`cat /proc/pressure/cpu`, and `vmstat 1`: `r` above the number of CPUs, or `st` (stolen by the \
         hypervisor).",
    ],
    fix: &[
        "Raise or remove the quota (Kubernetes: the CPU limit; the request still guarantees a share).",
        "Run no more worker threads than the quota has CPUs (GOMAXPROCS, tokio's worker_threads, JVM \
         ActiveProcessorCount).",
        "Bursts: `cpu.max.burst` lets unused quota be saved up (since Linux 5.14).",
        "Neighbours: move them, or give this process more cpu.weight.",
    ],
};

pub(in crate::cause) static CPU_BUSY: Entry = Entry {
    id: "cpu-busy",
    group: Group::Process,
    stages: &["handle"],
    title: "The process is computing, not waiting",
    meaning: "The threads run on the CPU most of the time, so there is no wait to explain. Calls are slow because \
              the work itself takes this long, or because there is too much of it. A profile says more than a \
              timeout here.",
    look_alikes: "`spin-zero-timeout` and the other spins: busy too, but in poll without progress. \
                  `cpu-throttled`: it would run and may not. Waiting for a spin lock, or a garbage collector at \
                  work, looks like computing; the profile shows it.",
    confirm: &[
        "`top -H -p PID`: which threads.",
        "`perf top -p PID`, or `perf record -g -p PID -- sleep 10` and `perf report`: where.",
        "`perf trace -s -p PID -- sleep 5`: few system calls is computing, very many poll calls is a spin.",
    ],
    fix: &[
        "Optimise what the profile shows at the top.",
        "Spread the work: more workers, more CPUs, more instances.",
        "Refuse work early when the queue is longer than the deadline allows.",
    ],
};

pub(in crate::cause) static WAITS_UPSTREAM: Entry = Entry {
    id: "waits-upstream",
    group: Group::Process,
    stages: &["wait"],
    title: "It is healthy itself, and waits for another service",
    meaning: "Most of the stalled time is spent waiting for one peer, at one stage. This process has free CPU, \
              its threads are in their pollers, its queues are empty. Go on at the peer that the verdict names.",
    look_alikes: "`pool-exhausted`: the wait is for a connection to that peer, here. `runtime-blocked`: the \
                  answer is here, and is not read (Recv-Q above 0). `path-lost` and `mtu-blackhole`: the peer \
                  answers, or would, and the path loses it.",
    confirm: &[
        "`ss -tnpoi dst HOST`: Send-Q 0, Recv-Q 0, nothing `unacked`, `lastrcv` (ms) grows.",
        "`curl -so /dev/null -w '%{time_connect} %{time_starttransfer}\\n' http://HOST:PORT/`: is the peer slow \
         for others too?",
        "On the peer `overdue why --pid PID`.",
    ],
    fix: &[
        "Repair the peer.",
        "Here: a limit for that call, a bound on concurrent calls to that peer, a fallback or cached answer.",
        "Forward the remaining time, so that the peer drops what nobody waits for.",
    ],
};

pub(in crate::cause) static DEADLINE_IGNORED: Entry = Entry {
    id: "deadline-ignored",
    group: Group::Process,
    stages: &["handle"],
    title: "Work goes on after its deadline",
    meaning: "The deadline has passed, the caller is gone, and the call still runs. Cancelling only asks: code \
              that does not look at its context, a blocking call, or a task that was started on the side goes on \
              to its end. The capacity that this uses is missing for calls that somebody waits for. From outside it is \
              seen where the request itself says how long its caller waits; a timer of the program's own shows \
              nothing.",
    look_alikes: "`deadline-not-forwarded`: the deadline never reached this process. Work that is meant to \
                  outlive the request (auditing, a write that must not be torn) should have a context of its own. \
                  `local-stall`: the timer itself was late.",
    confirm: &[
        "The server's log: start and end of the request against its deadline (grpc-timeout or another header).",
        "`ss -tnp dst HOST`, after the caller has gone: connections to the database or upstream that still work \
         for it.",
        "The stack at that moment (gdb, a goroutine dump, tokio-console): the code that runs on.",
    ],
    fix: &[
        "Pass the context to every call that can wait, and check it in long loops.",
        "Blocking calls: give them the remaining time (SO_RCVTIMEO, the driver's timeout).",
        "Databases: set the statement timeout from the remaining time; closing the client does not always stop a \
         query.",
        "Tasks started on the side: tie them to the request, or give them a deadline.",
    ],
};
