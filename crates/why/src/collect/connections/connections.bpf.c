/* The lives of TCP connections, and the first bytes of what is said over them.
 *
 * What is known of a connection lies with its socket (socket storage), so that it goes when the socket goes, whatever
 * happens to the process. Only what is rare goes to user space by itself: the first bytes, and the end.
 *
 * Whose a connection is, is known only where the process itself holds the socket: in connect(), in the first send or
 * receive, in close(). In the softirq that completes a handshake, `current` is whoever was interrupted. */
#include "follow.bpf.h"
#include "heads.bpf.h"

SEC("tp_btf/inet_sock_set_state")
int BPF_PROG(state_changed, struct sock *sk, int old, int new)
{
	struct shared *all = the_shared();
	struct connection *c;
	u64 now;
	u32 tid;
	bool owned;

	if (!all || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	/* Only who is in a system call on this socket owns it; what a softirq or a timer does, is done without. */
	owned = sk->sk_lock.owned;
	tid = owned ? watched_tid() : 0;

	if (new == TCP_LISTEN) {
		if (tid)
			listens_on(sk->__sk_common.skc_num);
		return 0;
	}
	if (new == TCP_SYN_SENT) {
		if (!tid)
			return 0;
		count(all->opened);
		c = follow(sk, all);
		if (c) {
			c->opened = bpf_ktime_get_ns();
			c->flags = OPENED | CLAIMED;
			c->tid = tid;
			c->state = new;
		}
		return 0;
	}
	if (new == TCP_ESTABLISHED && old == TCP_SYN_RECV) {
		if (!is_listened_on(sk->__sk_common.skc_num))
			return 0;
		c = follow(sk, all);
		if (c) {
			c->opened = c->established = bpf_ktime_get_ns();
			c->flags = ACCEPTED;
			c->state = new;
		}
		return 0;
	}
	c = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!c) {
		/* One that could not be followed: its end is counted, no more. */
		if (tid && old != TCP_LISTEN &&
		    (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK ||
		     (new == TCP_CLOSE && (old == TCP_SYN_SENT || old == TCP_ESTABLISHED || old == TCP_CLOSE_WAIT))))
			count(all->closed);
		return 0;
	}
	now = bpf_ktime_get_ns();
	if (tid)
		claim(c, all, tid, now);
	c->state = new;
	if (new == TCP_ESTABLISHED) {
		c->established = now;
		copy_ends(c, sk);
	}
	if (!c->fin && (new == TCP_CLOSE_WAIT || new == TCP_CLOSING || (old == TCP_FIN_WAIT2 && new == TCP_CLOSE && !owned)))
		c->fin = now;
	if (new == TCP_FIN_WAIT1 || new == TCP_LAST_ACK) {
		/* Both directions: closed, and not the half of it. */
		if (sk->sk_shutdown == 3) {
			if (owned)
				c->flags |= BY_US;
			end(c, all, sk, old, now);
		}
	} else if (new == TCP_CLOSE && !(c->flags & ENDED)) {
		c->error = sk->sk_err;
		if (!c->local_port)
			c->local_port = bpf_ntohs(BPF_CORE_READ((struct inet_sock *)sk, inet_sport));
		if (old == TCP_SYN_SENT && !c->error) {
			if (!owned)
				c->error = sk->sk_err_soft;
			else if (!BPF_CORE_READ((struct tcp_sock *)sk, segs_out))
				/* connect() itself failed, and nothing was sent: there was no port for it. */
				c->error = 99;
		}
		/* The peer's reset may be worked off within a system call of the process. */
		if (owned && !c->error && !(c->flags & RESET_RECEIVED))
			c->flags |= BY_US;
		end(c, all, sk, old, now);
	}
	return 0;
}

SEC("tp_btf/tcp_retransmit_skb")
int BPF_PROG(retransmitted, struct sock *sk)
{
	struct connection *c;

	if (!sk)
		return 0;
	c = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!c)
		return 0;
	if (sk->__sk_common.skc_state == TCP_SYN_SENT)
		c->syn_retransmits++;
	else
		c->retransmits++;
	return 0;
}

SEC("tp_btf/tcp_receive_reset")
int BPF_PROG(reset_received, struct sock *sk)
{
	struct connection *c;

	if (!sk)
		return 0;
	/* Its end follows, and takes this along. */
	c = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (c && !(c->flags & ENDED))
		c->flags |= RESET_RECEIVED;
	return 0;
}

SEC("tp_btf/tcp_send_reset")
int BPF_PROG(reset_sent, struct sock *sk, void *skb, int reason)
{
	struct shared *all = the_shared();
	struct connection *c;

	if (!all || !sk)
		return 0;
	c = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!c || c->flags & RESET_SENT)
		return 0;
	c->flags |= RESET_SENT;
	c->reset_reason = reason;
	/* close() with unread data: the state changes first. */
	if ((c->flags & (ENDED | CLAIMED)) == (ENDED | CLAIMED)) {
		count(all->reset_by_us);
		tell_end(c, all, bpf_ktime_get_ns());
	}
	return 0;
}

/* The first use by the process of one that came from elsewhere. */
static __noinline struct connection *first_use(struct sock *sk, struct shared *all, u64 now)
{
	struct connection *c;

	if (!sk || !all)
		return 0;
	/* The peer's end of it may be gone already, but then it had an end. */
	if (!sk->__sk_common.skc_dport)
		return 0;
	c = follow(sk, all);
	if (!c)
		return 0;
	c->state = sk->__sk_common.skc_state;
	if (is_listened_on(c->local_port)) {
		c->flags = ACCEPTED;
		c->opened = now;
	}
	return c;
}

static __always_inline int transferred(struct sock *sk, int result, u32 way, u32 tid)
{
	struct shared *all;
	struct connection *c;
	struct way *here, *there;
	struct watch *watch;
	u32 zero = 0;
	bool new_turn;
	u64 now, *counter;

	c = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (c && result <= 0 && c->flags & CLAIMED)
		return 0;
	all = the_shared();
	watch = bpf_map_lookup_elem(&watching, &zero);
	counter = bpf_map_lookup_elem(&transfers, &zero);
	if (!all || !watch || !counter)
		return 0;
	*counter += 1;
	now = bpf_ktime_get_ns();
	if (!c) {
		c = first_use(sk, all, now);
		if (!c)
			return 0;
	}
	claim(c, all, tid, now);
	if (result <= 0)
		return 0;

	here = &c->ways[way];
	there = &c->ways[!way];
	new_turn = c->turn != way || here->last < watch->since;
	if (new_turn) {
		if (there->last > here->last && there->last >= watch->since) {
			u64 gap = now - there->last;

			here->gaps += gap;
			if (gap > here->longest_gap) {
				here->longest_gap = gap;
				here->longest_gap_from = there->last;
			}
		}
		here->first = now;
		here->turns++;
		c->turn = way;
		/* Another answer. */
		if (way == READ)
			c->flags &= ~(CHUNKED | HEAD_OPEN);
	}
	/* Most of the time there is nothing to look at. */
	if (!(c->flags & DECIDED) || (way == READ && c->flags & HEAD_OPEN) || (c->flags & LOOKED_AT && (!here->pieces || (c->flags & (TLS | HTTP2) && here->pieces < HANDSHAKE_PIECES))) ||
	    (new_turn && !(c->flags & (TLS | HTTP2)) && (c->flags & ANSWER_WANTED || now - here->looked_at >= 100000000)))
		look(sk, c, all,
		     &(struct transfer){ .now = now, .way = way, .length = result, .tid = tid, .new_turn = new_turn });
	if (way == READ && c->flags & CHUNKED)
		keep_tail(sk, c, result);
	here->last = now;
	here->bytes += result;
	here->calls++;
	return 0;
}

/* A name server's port, in the address that the call was given, or in the one that the socket is connected to. */
static __noinline void asked(struct sock *sk, u32 way, u32 length, u32 tid)
{
	struct shared *all = the_shared();
	struct piece piece = {};
	struct places places = {};
	struct {
		u16 family;
		u16 port;
		u8 rest[24];
	} address = {};
	u16 port;
	u64 now;

	if (!all || !sk)
		return;
	port = bpf_ntohs(sk->__sk_common.skc_dport);
	if (port && port != DNS)
		return;
	if (way == READ && !port && !bpf_sk_storage_get(&asking, sk, 0, 0))
		return;
	if (!find_places(address_of(sk), &places))
		return;
	piece.family = sk->__sk_common.skc_family;
	piece.port = port;
	if (way == WRITE && !port) {
		if (!places.name || bpf_probe_read_user(&address, 16, (void *)places.name))
			return;
		if (address.family == AF_INET6 && bpf_probe_read_user(&address, 24, (void *)places.name))
			return;
		if (address.port != bpf_htons(DNS))
			return;
		bpf_sk_storage_get(&asking, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
		piece.family = address.family;
		piece.port = DNS;
		/* sin_addr; or sin6_flowinfo, then sin6_addr. */
		if (address.family == AF_INET6)
			__builtin_memcpy(piece.remote, address.rest + 4, 16);
		else
			__builtin_memcpy(piece.remote, address.rest, 4);
	} else if (piece.family == AF_INET6) {
		BPF_CORE_READ_INTO(&piece.remote, sk, __sk_common.skc_v6_daddr);
	} else {
		*(u32 *)piece.remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	}
	now = bpf_ktime_get_ns();
	if (!spend(&all->queries, now, most_queries)) {
		count(all->unseen);
		return;
	}
	piece.kind = KIND_DNS;
	piece.at = now;
	piece.cookie = bpf_get_socket_cookie(sk);
	piece.tid = tid;
	piece.length = length;
	piece.way = way;
	if (!send_pieces(&piece, &places, MIDDLE))
		count(all->dropped);
}

/* Where the name server should be, nobody listens: the error of an ICMP message, on the socket's next call. */
static __noinline void refused(struct sock *sk, u32 tid)
{
	struct shared *all = the_shared();
	struct piece *event;
	u16 port;
	u64 now;

	if (!all || !sk)
		return;
	port = bpf_ntohs(sk->__sk_common.skc_dport);
	if (port ? port != DNS : !bpf_sk_storage_get(&asking, sk, 0, 0))
		return;
	now = bpf_ktime_get_ns();
	if (!spend(&all->queries, now, most_queries)) {
		count(all->unseen);
		return;
	}
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count(all->dropped);
		return;
	}
	__builtin_memset(event, 0, sizeof(*event));
	event->kind = KIND_DNS_REFUSED;
	event->at = now;
	event->cookie = bpf_get_socket_cookie(sk);
	event->tid = tid;
	bpf_ringbuf_submit(event, 0);
}

SEC("tp_btf/sock_send_length")
int BPF_PROG(sent, struct sock *sk, int result)
{
	u32 tid = watched_tid();

	if (!tid || !sk)
		return 0;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	if (sk->sk_protocol == IPPROTO_TCP)
		return transferred(sk, result, WRITE, tid);
	if (sk->sk_protocol == IPPROTO_UDP && result > 0)
		asked(sk, WRITE, result, tid);
	else if (sk->sk_protocol == IPPROTO_UDP && result == -ECONNREFUSED)
		refused(sk, tid);
	return 0;
}

SEC("tp_btf/sock_recv_length")
int BPF_PROG(received, struct sock *sk, int result, int flags)
{
	u32 tid = watched_tid();

	if (!tid || !sk || flags & (MSG_PEEK | MSG_ERRQUEUE))
		return 0;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	if (sk->sk_protocol == IPPROTO_TCP)
		return transferred(sk, result, READ, tid);
	if (sk->sk_protocol == IPPROTO_UDP && result > 0)
		asked(sk, READ, result, tid);
	else if (sk->sk_protocol == IPPROTO_UDP && result == -ECONNREFUSED)
		refused(sk, tid);
	return 0;
}

/* Whether a task, which is not the current one, belongs to the process. */
static __always_inline bool is_target(struct task_struct *task)
{
	struct task_struct___more *t = (void *)task;
	struct pid *pid;
	u32 level;

	if (!target.pidns_ino)
		return task->tgid == target.tgid;
	pid = BPF_CORE_READ(t, group_leader, thread_pid);
	level = BPF_CORE_READ(pid, level);
	/* Its numbers, from the first namespace to its own; the kernel allows 32 levels. */
	for (u32 i = 0; i < 32 && i <= level; i++) {
		struct upid upid = {};

		bpf_core_read(&upid.nr, sizeof(upid.nr), &pid->numbers[0].nr);
		bpf_probe_read_kernel(&upid, sizeof(upid),
				      (void *)pid + bpf_core_field_offset(struct pid, numbers) + i * sizeof(upid));
		if (BPF_CORE_READ(upid.ns, ns.inum) == (u32)target.pidns_ino)
			return upid.nr == target.tgid;
	}
	return false;
}

/* All sockets that the process holds: run before the watch, it makes them known; run at its end, it hands over what is
 * known of those that are still open, unanswered connects among them. */
SEC("iter/task_file")
int held(struct bpf_iter__task_file *ctx)
{
	struct task_struct *task = ctx->task;
	struct file *file = ctx->file;
	struct shared *all = the_shared();
	struct connection *c;
	struct socket *socket;
	struct sock *sk;
	u32 fd = ctx->fd, zero = 0;
	struct watch *watch = bpf_map_lookup_elem(&watching, &zero);
	struct ticks *first = bpf_map_lookup_elem(&first_tick, &zero);
	u64 now, ticks;
	u8 state;

	if (!watch || !first || !task || !file || !all)
		return 0;
	if (!first->ticks) {
		first->at = bpf_ktime_get_ns();
		first->ticks = bpf_jiffies64();
	}
	if (!is_target(task))
		return 0;
	socket = bpf_sock_from_file(file);
	if (!socket)
		return 0;
	sk = socket->sk;
	if (!sk || sk->sk_protocol != IPPROTO_TCP)
		return 0;
	if (sk->__sk_common.skc_family != AF_INET && sk->__sk_common.skc_family != AF_INET6)
		return 0;
	state = sk->__sk_common.skc_state;
	if (state == TCP_LISTEN) {
		listens_on(sk->__sk_common.skc_num);
		return 0;
	}
	c = bpf_sk_storage_get(&connections, sk, 0, 0);
	if (!c) {
		/* Neither connected nor ever was. */
		if (state == TCP_CLOSE)
			return 0;
		c = follow(sk, all);
		if (!c)
			return 0;
		c->flags = watch->begun ? 0 : BEFORE | CLAIMED;
		c->state = state;
	}
	if (!(c->flags & ENDED))
		c->state = state;
	c->fd = fd;
	now = bpf_ktime_get_ns();
	claim(c, all, 0, now);
	if (!(c->flags & ENDED))
		read_totals(c->totals, sk);
	ticks = bpf_jiffies64();
	/* Of too few ticks the length is not known well enough. */
	if (ticks - first->ticks >= 50) {
		u64 length = (now - first->at) / (ticks - first->ticks);

		c->silent[READ] = length * ((u32)ticks - BPF_CORE_READ((struct inet_connection_sock *)sk, icsk_ack.lrcvtime));
		c->silent[WRITE] = length * ((u32)ticks - BPF_CORE_READ((struct tcp_sock *)sk, lsndtime));
	}
	if (watch->begun)
		bpf_seq_write(ctx->meta->seq, c, sizeof(*c));
	return 0;
}
