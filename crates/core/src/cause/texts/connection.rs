//! Causes met while a connection is made: resolve, connect, tls.

use crate::cause::{Entry, Group};

pub(in crate::cause) static DNS_NO_ANSWER: Entry = Entry {
    id: "dns-no-answer",
    group: Group::Call,
    stages: &["resolve"],
    title: "No DNS server answered",
    meaning: "Queries went out, and no name server replied before the limit fired. glibc waits 5 s for a server \
              before it asks the next one, and goes through the list twice. So a limit below 5 s fires before the \
              second server is asked.",
    look_alikes: "`dns-slow`: an answer did come, late. `dns-failed`: a server answered, with an error. \
                  `dns-serialised` and `local-stall`: no query leaves the machine. A server with nothing on port \
                  53 fails at once (ICMP port unreachable), not after a wait.",
    confirm: &[
        "`grep -E '^(nameserver|options)' /etc/resolv.conf`: the servers that are asked. 127.0.0.53 is \
         systemd-resolved; `resolvectl status` shows the servers behind it.",
        "`dig @SERVER HOST +tries=1 +time=2` for each of them: a dead one times out.",
        "`dig @SERVER HOST +tcp +tries=1 +time=2`: if this works and the line above does not, UDP port 53 is \
         filtered.",
        "`tcpdump -ni any port 53`: queries leave, no reply comes. If the reply is there, the process did not \
         read it.",
    ],
    fix: &[
        "Open UDP and TCP port 53 to the server, or replace the dead server where resolv.conf comes from (DHCP, \
         systemd-resolved, kubelet).",
        "Until then `options timeout:1` in resolv.conf makes glibc go on to the next server after 1 s. glibc 2.26 \
         and later reread the file in running programs.",
        "If calls take 5 s and only one of the A and AAAA replies gets lost (a NAT or conntrack race), set \
         `options single-request-reopen`.",
    ],
};

pub(in crate::cause) static DNS_SLOW: Entry = Entry {
    id: "dns-slow",
    group: Group::Call,
    stages: &["resolve"],
    title: "The name was resolved, but too late",
    meaning: "An answer came after most of the budget was gone. Usual reasons: the first server is dead and the \
              second one answered 5 s later, search domains were tried first, or the resolver's cache was cold. \
              What was left of the limit was too short for the rest of the call.",
    look_alikes: "`dns-no-answer`: nothing came at all. `dns-serialised`: each query is fast, but callers wait \
                  for a free resolver thread. `local-stall`: the answer was there, the process picked it up late.",
    confirm: &[
        "`time getent ahosts HOST`: the path that programs take (nsswitch, hosts file, search domains).",
        "`dig HOST | grep 'Query time'`, twice: slow then fast is a cold cache, slow twice is a slow server. dig \
         reads neither the hosts file nor nsswitch.",
        "`grep -E 'search|ndots' /etc/resolv.conf`: with ndots:5, a name with fewer than 5 dots is tried under \
         each search domain first.",
        "`strace -f -tt -e trace=connect,sendto,sendmmsg,recvfrom getent ahosts HOST`: each query and its server; \
         a gap of 5 s is a server that did not answer.",
    ],
    fix: &[
        "Where search domains are not wanted, write the name with a trailing dot, or lower ndots.",
        "Take dead servers out of the list; `options timeout:1` shortens the wait for one.",
        "Run a cache on the host (systemd-resolved, unbound, dnsmasq, NodeLocal DNSCache).",
        "Give resolve a limit of its own, so that a slow name cannot use up the whole call.",
    ],
};

pub(in crate::cause) static DNS_FAILED: Entry = Entry {
    id: "dns-failed",
    group: Group::Call,
    stages: &["resolve"],
    title: "DNS answered, but with no usable address",
    meaning: "A server answered, and there is no address to connect to. NXDOMAIN: the name does not exist. \
              NOERROR without an answer: it has no record of the wanted type. SERVFAIL: the server could not find \
              out; REFUSED: it does not serve this client.",
    look_alikes: "A name that works in one place only: a short name and a search domain, another server with \
                  another view of the zone, or an entry in /etc/hosts, which dig does not read. After a fix the \
                  old NXDOMAIN is still cached, as long as the zone's SOA record says. `unreachable` and \
                  `connect-refused`: the name did resolve.",
    confirm: &[
        "`dig HOST A +noall +comments +answer`, then the same with AAAA: `status:` is the reason.",
        "`getent ahosts HOST`: what programs get.",
        "`dig HOST +cd`: an answer here, and SERVFAIL without `+cd`, means that DNSSEC validation fails.",
        "`dig HOST +trace`: follows the delegations from the root and shows which zone gives the wrong answer.",
    ],
    fix: &[
        "NXDOMAIN: correct the name, or create the record and let the negative cache expire.",
        "No record of the wanted type: publish it, or let the client use the other address family.",
        "SERVFAIL: repair the zone (DNSSEC, delegation, authoritative servers that do not answer).",
        "REFUSED: ask a server that serves this network, or allow this client on it.",
    ],
};

pub(in crate::cause) static SYN_UNANSWERED: Entry = Entry {
    id: "syn-unanswered",
    group: Group::Call,
    stages: &["connect"],
    title: "The SYN is not answered",
    meaning: "The kernel sent a SYN and repeats it; no SYN-ACK, no RST and no ICMP came back. Something drops the \
              packets (a firewall, a security group, a full conntrack table), or the host is gone and no router \
              says so. Left alone, the kernel gives up after about 127 s, or 131 s since Linux 6.5 \
              (tcp_syn_retries 6), with ETIMEDOUT.",
    look_alikes: "`accept-queue-full`: a full listener ignores SYNs too; look on the server. `unreachable`: ICMP \
                  came. A SYN-ACK lost on its way back looks the same from here; a capture on the server shows \
                  it. So does a DROP rule in our own output chain: then tcpdump sees no SYN leave.",
    confirm: &[
        "`ss -tno state syn-sent dst HOST`: in `timer:(on,TIME,N)`, N counts the repeated SYNs.",
        "`tcpdump -ni any '(host HOST and tcp port PORT) or icmp or icmp6'`, here and on the server: which side \
         sees what.",
        "If tcpdump shows SYN-ACKs and the state stays SYN-SENT, this host drops them: firewall rules, or \
         rp_filter (`nstat -az TcpExtIPReversePathFilter` grows).",
        "`dmesg | grep 'nf_conntrack: table full'`, here and on gateways.",
    ],
    fix: &[
        "Allow the port in the firewall or security group; stateless rules need the way back as well.",
        "Check the address, and the route back: stateful firewalls drop one half of an asymmetric path.",
        "conntrack table full: raise net.netfilter.nf_conntrack_max, and find what fills it.",
        "Do not wait for the kernel: use a connect limit of a few seconds and try the next address. Keep it above \
         1 s, because a lost SYN is repeated after 1 s.",
    ],
};

pub(in crate::cause) static ACCEPT_QUEUE_FULL: Entry = Entry {
    id: "accept-queue-full",
    group: Group::Call,
    stages: &["connect", "tls", "send", "wait"],
    title: "The server's accept queue is full",
    meaning: "Finished handshakes wait in the listener's queue until the application calls accept. When it is \
              full, the kernel ignores new SYNs, and also the last ACK of handshakes under way. In the second \
              case the client is ESTABLISHED, and what it sends is not acknowledged.",
    look_alikes: "`syn-unanswered` and `path-lost`: the same, seen from the client; only the listener's numbers \
                  tell, on the server and in its network namespace. With net.ipv4.tcp_abort_on_overflow=1 the \
                  client gets a reset instead of the second case (`peer-reset`). `half-open-pileup`: handshakes \
                  that do not finish.",
    confirm: &[
        "On the server `ss -ltn 'sport = :PORT'`: for a listener, Recv-Q is the number of connections that wait \
         for accept and Send-Q the limit. It is full when Recv-Q is above Send-Q.",
        "`nstat -az TcpExtListenOverflows TcpExtListenDrops`, twice: they grow. They count all listeners of a \
         network namespace; for a container put `nsenter -t PID -n` in front.",
        "As root `ss -tnp 'sport = :PORT'`: connections without a process are not yet accepted.",
    ],
    fix: &[
        "Find why the application does not accept: see `accept-queue-overflow`.",
        "Accept in a thread or task that does nothing else; refuse work after accept, not by not accepting.",
        "For short bursts raise the backlog of listen() and net.core.somaxconn (4096 since Linux 5.4, 128 \
         before); the smaller one counts. It takes effect at the next listen(), so restart or reload.",
    ],
};

pub(in crate::cause) static CONNECT_REFUSED: Entry = Entry {
    id: "connect-refused",
    group: Group::Call,
    stages: &["connect"],
    title: "The connection was refused",
    meaning: "The SYN was answered with RST: the host is up, and nothing listens on this address and port. A \
              firewall that rejects gives the same ECONNREFUSED, with a forged RST or with ICMP port unreachable. \
              Nothing of the request was sent.",
    look_alikes: "`peer-reset`: the reset came after the connection was established. `unreachable`: another ICMP \
                  code. A service that listens on 127.0.0.1 only, or on IPv4 only, refuses on its other \
                  addresses; `localhost` often means ::1 first.",
    confirm: &[
        "On the server `ss -ltnp 'sport = :PORT'`: is there a listener, on which address? For a container put \
         `nsenter -t PID -n` in front.",
        "`getent ahosts HOST`: the addresses that the name stands for; `curl -v http://HOST:PORT/` shows which \
         were tried.",
        "`tcpdump -ni any '(host HOST and tcp port PORT) or icmp or icmp6'`: an ICMP port unreachable is always a \
         firewall. On the server `nft list ruleset | grep -i reject` shows its rules.",
    ],
    fix: &[
        "Start the service, or correct the port.",
        "Bind it to the address that clients use; publish the port of the container.",
        "If it refuses only during restarts: let systemd hold the socket (socket activation), or retry with \
         backoff. Nothing was sent, so any request may be retried.",
    ],
};

pub(in crate::cause) static UNREACHABLE: Entry = Entry {
    id: "unreachable",
    group: Group::Call,
    stages: &["connect"],
    title: "No route, or a router says that there is none",
    meaning: "ENETUNREACH at once: this machine has no route to the address. EHOSTUNREACH after about 3 s: the \
              next hop does not answer ARP or neighbour discovery. Otherwise a router or a firewall sent ICMP; on \
              IPv4 the `prohibited` codes of a firewall give EHOSTUNREACH too.",
    look_alikes: "`syn-unanswered`: no ICMP came. A firewall that prohibits by ICMPv6 gives EACCES, and so does a \
                  local `prohibit` route; a `blackhole` route gives EINVAL. ENETUNREACH for an IPv6 address on a \
                  host without IPv6 does no harm if the IPv4 address then works. On an established connection \
                  ICMP is only remembered: see `path-lost`.",
    confirm: &[
        "`ip route get ADDRESS`: the route and the source address, or the error itself.",
        "`ip neigh show to ADDRESS`, with the address of the peer or of the gateway: FAILED or INCOMPLETE means \
         that nobody answers on the link.",
        "`tcpdump -ni any 'icmp or icmp6'`: the sender of the message is the machine to look at.",
    ],
    fix: &[
        "Add or repair the route; bring up the interface, the VPN or the gateway.",
        "ICMP prohibited: open the port in the firewall that sent it (firewalld rejects like this).",
        "No IPv6 here: do not resolve AAAA, or try both families in parallel (Happy Eyeballs).",
    ],
};

pub(in crate::cause) static CONNECT_SLOW: Entry = Entry {
    id: "connect-slow",
    group: Group::Call,
    stages: &["connect"],
    title: "The connection was made, but too late",
    meaning: "The SYN-ACK came after most of the budget. Whole seconds plus one round trip mean that SYNs or \
              SYN-ACKs were lost and repeated: after 1, 3 and 7 s, or since Linux 6.5 after 1, 2, 3, 4 and 5 s. \
              Any other time is a long path, or addresses that were tried before this one.",
    look_alikes: "`syn-unanswered`: nothing came at all. `local-stall`: the SYN-ACK was there, the process was \
                  late. `accept-queue-full`: a queue that was full for a moment ignores the first SYN; the \
                  server's ListenOverflows has grown.",
    confirm: &[
        "`curl -so /dev/null -w '%{time_namelookup} %{time_connect}\\n' http://HOST:PORT/`, several times: the \
         difference is the connect.",
        "`nstat -az TcpExtTCPSynRetrans`, twice: SYNs and SYN-ACKs that this host had to repeat.",
        "`ss -tni dst HOST`: `rtt` of established connections is the true length of the path, in ms.",
        "`tcpdump -ni any 'host HOST and tcp port PORT'`: two SYNs before the SYN-ACK are a loss.",
    ],
    fix: &[
        "Find the loss: an overloaded link, firewall or NAT, or a listener whose queue fills in bursts.",
        "Keep connections open and reuse them, so that fewer calls pay for a handshake.",
        "Keep the connect limit above 1 s plus a round trip, so that one lost SYN does not fail the call.",
        "Several addresses: start the next after 250 ms without giving up the first (Happy Eyeballs).",
    ],
};

pub(in crate::cause) static PORTS_EXHAUSTED: Entry = Entry {
    id: "ports-exhausted",
    group: Group::Call,
    stages: &["connect"],
    title: "No free local port for this destination",
    meaning: "connect() failed with EADDRNOTAVAIL: every port of net.ipv4.ip_local_port_range is taken towards \
              this address and port. The default range, 32768 to 60999, has 28232 ports. A connection that this \
              side closed first keeps its port in TIME-WAIT for 60 s, so some 470 new connections a second use up \
              the range.",
    look_alikes: "EADDRNOTAVAIL also comes from bind() to an address that this host does not have, and from \
                  connect() to ::1 where IPv6 is disabled. A socket that is bound to a source address with port 0 \
                  fails with EADDRINUSE instead. Ports used up on a NAT gateway do not show here: they look like \
                  `syn-unanswered`.",
    confirm: &[
        "`ss -Htan dst HOST:PORT | awk '{print $1}' | sort | uniq -c`: a sum near the size of the range. Many \
         TIME-WAIT: connections are not reused. Many ESTAB: they are kept, or leaked.",
        "`sysctl net.ipv4.ip_local_port_range net.ipv4.ip_local_reserved_ports net.ipv4.tcp_tw_reuse`: the range \
         in this network namespace.",
    ],
    fix: &[
        "Reuse connections (keep-alive, a pool). This removes the cause.",
        "`sysctl -w net.ipv4.tcp_tw_reuse=1`: connect may take over a port in TIME-WAIT after 1 s, if both sides \
         use TCP timestamps. tcp_fin_timeout does not shorten TIME-WAIT.",
        "Widen the range downwards, and put the ports of local services into ip_local_reserved_ports.",
        "Code that binds a source address: set IP_BIND_ADDRESS_NO_PORT before bind. Or use more source or \
         destination addresses.",
    ],
};

pub(in crate::cause) static FD_EXHAUSTED: Entry = Entry {
    id: "fd-exhausted",
    group: Group::Call,
    stages: &["connect", "accept"],
    title: "No file descriptor is left",
    meaning: "socket(), accept() or open() failed with EMFILE: the process has as many descriptors as its soft \
              limit RLIMIT_NOFILE allows. ENFILE is the same for the whole system (fs.file-max). Nothing of this \
              request was sent.",
    look_alikes: "`fd-leak`: the number only grows; this one may be a burst. `spin-accept-emfile`: a server at \
                  its limit that burns CPU as well. ENOBUFS and ENOMEM are about memory; ENOSPC from epoll_ctl is \
                  fs.epoll.max_user_watches.",
    confirm: &[
        "`ls /proc/PID/fd | wc -l` against `grep 'open files' /proc/PID/limits` (the first number is the soft \
         limit).",
        "`cat /proc/sys/fs/file-nr`, for ENFILE: the first number is in use, the last is the maximum.",
        "`ls -l /proc/PID/fd | awk '{print $NF}' | sed 's/\\[.*//' | sort | uniq -c | sort -rn | head`: what they \
         are.",
    ],
    fix: &[
        "If the number only grows, find the leak first (`fd-leak`); a higher limit delays the end.",
        "Raise the limit: `LimitNOFILE=` in the systemd unit; in a running process `prlimit --pid PID \
         --nofile=SOFT:HARD`.",
        "Bound connections (pool size, accepted connections) below the limit, with a reserve for files and logs.",
    ],
};

pub(in crate::cause) static TLS_PEER_SILENT: Entry = Entry {
    id: "tls-peer-silent",
    group: Group::Call,
    stages: &["tls"],
    title: "The ClientHello was received, and nothing came back",
    meaning: "TCP is connected and the peer's kernel acknowledged the ClientHello, but no ServerHello came. The \
              kernel acknowledges without the application: it may not have accepted the connection, not have read \
              it, or be busy. Or the port does not speak TLS, and the peer waits for more of what it takes for a \
              request.",
    look_alikes: "`accept-queue-full` and `path-lost`: the ClientHello is not acknowledged. `mtu-blackhole`: the \
                  answer is under way and its large segments are lost; on the server the connection then has a \
                  Send-Q. `tls-slow`: some records came.",
    confirm: &[
        "`openssl s_client -connect HOST:PORT -servername HOST -msg </dev/null`: it stops after `>>> ... \
         ClientHello`.",
        "`ss -tni dst HOST`: `bytes_acked` covers the hello, `bytes_received` is missing.",
        "As root on the server `ss -tnp 'sport = :PORT'`: Recv-Q above 0 means that the hello is unread; no \
         process means that the connection is not even accepted.",
    ],
    fix: &[
        "Unread or not accepted: look at the server's threads (`runtime-blocked`, `accept-queue-overflow`).",
        "Correct the port, or switch on TLS there.",
        "If only some clients fail, compare their hello: a large one (post-quantum key share) comes in two \
         segments, and a broken server or middlebox reads only the first.",
    ],
};

pub(in crate::cause) static TLS_SLOW: Entry = Entry {
    id: "tls-slow",
    group: Group::Call,
    stages: &["tls"],
    title: "The handshake makes progress, but too slowly",
    meaning: "Handshake records arrive, and the limit fires before the last one. TLS 1.3 takes one round trip, or \
              two after a HelloRetryRequest; a full TLS 1.2 handshake takes two. The rest is loss, or CPU: RSA \
              signatures on a busy server, or a check of the client certificate that asks another service.",
    look_alikes: "`tls-peer-silent`: not one byte came. `mtu-blackhole`: a small first record came, the \
                  certificate never does. `local-stall` and `cpu-throttled`: our own side is the slow one.",
    confirm: &[
        "`curl -so /dev/null -w '%{time_connect} %{time_appconnect}\\n' https://HOST:PORT/`, several times: the \
         difference is the handshake.",
        "`ss -tni dst HOST`: compare with `rtt`; two or three of it are normal. `retrans` shows loss.",
        "`openssl s_client -connect HOST:PORT -servername HOST -msg </dev/null`: after which message it waits.",
        "On the server `top -H -p PID`: threads near 100 %.",
    ],
    fix: &[
        "Reuse connections, and let TLS resume sessions.",
        "On the server: TLS 1.3, an ECDSA certificate, a short chain, more CPU.",
        "Move slow checks (client certificates, OCSP) out of the handshake, or cache their result.",
        "A far peer: set the limit to several round trips plus 1 s for one lost packet.",
    ],
};

pub(in crate::cause) static TLS_REJECTED: Entry = Entry {
    id: "tls-rejected",
    group: Group::Call,
    stages: &["tls"],
    title: "The peer ended the handshake with an alert",
    meaning: "The peer read our side of the handshake and refused it; the alert says why. handshake_failure and \
              protocol_version: no common cipher or version. unrecognized_name: it does not serve the name in \
              SNI. certificate_required, bad_certificate and unknown_ca: it wants another client certificate.",
    look_alikes: "`tls-untrusted`: we refuse the peer's certificate, and the alert is ours. `tls-not-tls`: the \
                  answer is no TLS record. In TLS 1.3 a client certificate is judged after our handshake is done, \
                  so the alert comes with the first read. `peer-reset`: a peer that drops the connection without \
                  an alert.",
    confirm: &[
        "`openssl s_client -connect HOST:PORT -servername HOST -msg </dev/null`: look for `Alert` and its name.",
        "The same with `-tls1_2`, with `-tls1_3`, or with `-alpn h2`: which one changes the answer.",
        "The same with `-cert FILE -key FILE`: does the peer accept this client certificate?",
        "The server's log of the same second; most servers name the alert and the reason.",
    ],
    fix: &[
        "Version or cipher: enable one that both sides have.",
        "Name: connect with the name that the server has a certificate for, and send it as SNI.",
        "Client certificate: send a valid one with its intermediates, from a CA that the server trusts.",
        "ALPN (no_application_protocol): offer a protocol that the server speaks.",
    ],
};

pub(in crate::cause) static TLS_UNTRUSTED: Entry = Entry {
    id: "tls-untrusted",
    group: Group::Call,
    stages: &["tls"],
    title: "The peer's certificate does not verify",
    meaning: "Our side ended the handshake. The certificate is expired or not yet valid, is made for another \
              name, or does not lead to a CA that this client trusts. The last one is often a server that leaves \
              out its intermediate certificate.",
    look_alikes: "A wrong clock on this machine looks like an expired certificate. A proxy that inspects TLS \
                  looks like an unknown CA: read the issuer. Browsers fetch a missing intermediate or have it \
                  cached, most other clients do not, so that it works in a browser proves nothing.",
    confirm: &[
        "`openssl s_client -connect HOST:PORT -servername HOST -verify_hostname HOST </dev/null`: see `Verify \
         return code`. Without -verify_hostname it does not check the name.",
        "`openssl s_client -connect HOST:PORT -servername HOST </dev/null 2>/dev/null | openssl x509 -noout \
         -dates -subject -issuer -ext subjectAltName`: dates, issuer and names.",
        "`openssl s_client -connect HOST:PORT -servername HOST -showcerts </dev/null`: the chain as it is sent; \
         one certificate alone, not self-signed, mostly means that the intermediate is missing.",
        "`date -u`: the clock of this machine.",
    ],
    fix: &[
        "Expired: renew it, and reload the server; a renewed file on disk changes nothing before that.",
        "Name: issue it for the name that clients use, or connect with a name it has.",
        "Issuer: serve the full chain, or give the client the CA of a private issuer. Do not switch verification \
         off.",
    ],
};

pub(in crate::cause) static TLS_NOT_TLS: Entry = Entry {
    id: "tls-not-tls",
    group: Group::Call,
    stages: &["tls"],
    title: "The peer's answer is not TLS",
    meaning: "The first bytes that came back are no TLS record. Often they are plain HTTP (`HTTP/1.1 400`) from a \
              port without TLS, the greeting of a protocol that starts TLS later (SMTP, IMAP, FTP), or an error \
              page of a proxy. The first bytes are in the evidence.",
    look_alikes: "`tls-rejected`: a real alert. `tls-peer-silent`: a plain server that waits for more input \
                  instead of answering. The reverse mistake, plain HTTP to a TLS port, shows as `protocol-error` \
                  or `closed-early`.",
    confirm: &[
        "`curl -v http://HOST:PORT/`: a normal answer means that the port speaks plain HTTP.",
        "`nc HOST PORT`: a greeting that comes without asking is SMTP, IMAP, FTP, SSH or the like.",
        "`openssl s_client -connect HOST:PORT -servername HOST </dev/null`: `wrong version number` or `packet \
         length too long` instead of a certificate.",
    ],
    fix: &[
        "Correct the port or the scheme, or switch on TLS on that port.",
        "STARTTLS protocols: use the client's STARTTLS mode (test: `openssl s_client -starttls smtp`).",
        "Behind a load balancer: check that it passes TLS through if it should, and that both ends agree on the \
         PROXY protocol.",
    ],
};
