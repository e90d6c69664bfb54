/* What is known of a connection, from when it is followed until its end is told. `raw.rs` reads these structs. */
#pragma once
#include "kernel.bpf.h"

/* A handshake takes so many reads at most: OpenSSL takes two for each record, and there are seven or eight. */
#define HANDSHAKE_PIECES 24

/* So many reads of one head are looked at: some read byte by byte. */
#define HEAD_READS 8

/* Of the process's view: what it reads, what it writes. */
enum { READ = 0, WRITE = 1, NEITHER = 2 };

enum {
	BEFORE = 1 << 0,	/* it was there when the watch began */
	OPENED = 1 << 1,	/* by connect() of the process */
	ACCEPTED = 1 << 2,	/* it came in */
	CLAIMED = 1 << 3,	/* the process has it for certain */
	ENDED = 1 << 4,
	RESET_RECEIVED = 1 << 5,
	RESET_SENT = 1 << 6,
	DECIDED = 1 << 7,	/* whether its first bytes are looked at */
	LOOKED_AT = 1 << 8,	/* they are */
	TLS = 1 << 9,		/* they begin a handshake of TLS */
	ANSWER_WANTED = 1 << 10,/* the request was looked at, so will its answer be */
	BLIND = 1 << 11,	/* io_uring, sendfile: nothing tells where its bytes are */
	BY_US = 1 << 12,	/* the process ended it */
	HTTP2 = 1 << 13,	/* they are the preface of HTTP/2 */
	CHUNKED = 1 << 14,	/* the answer that is being read comes in chunks: its last bytes are kept */
	HEAD_OPEN = 1 << 15,	/* the head of the answer that is being read has not ended: more of it is looked at */
};

/* One direction. All times are of the monotonic clock, in nanoseconds; 0 is never. */
struct way {
	u64 first;		/* since the last in the other direction */
	u64 last;
	u64 bytes;
	u64 gaps;		/* from the last in the other direction to the first in this one, all together */
	u64 longest_gap;
	u64 longest_gap_from;
	u64 looked_at;
	u32 calls;
	u32 turns;
	u32 pieces;
	u32 unused;
};

struct connection {
	u64 cookie;
	u64 opened;
	u64 established;
	u64 ended;
	u64 fin;
	struct way ways[2];
	u32 tid;
	s32 error;
	u32 syn_retransmits;
	u32 retransmits;
	u32 flags;
	u32 reset_reason;
	u8 state;
	u8 turn;
	u16 family;
	u16 local_port;
	u16 remote_port;
	u8 local[16];
	u8 remote[16];
	s32 fd;
	u8 tail[4];		/* the last bytes read of an answer in chunks */
	/* What the kernel itself counted until now, read or not, sent or not; and how long data is past. Reads and writes
	 * may be watched only now and then. */
	u64 totals[2];
	u64 totals_before[2];
	u64 silent[2];
	/* The head of the answer that is being read: the last eight bytes that were searched, and in how many reads. */
	u64 searched;
	u32 head_reads;
	u32 unused;
};

struct budget {
	u64 since;
	u64 used;
};

struct shared {
	u64 opened;
	u64 accepted;
	u64 closed;
	u64 reset_by_peer;
	u64 reset_by_us;
	u64 little_work;
	u64 dropped;		/* the ring was full */
	u64 untold;		/* ended, too many a second to tell of each */
	u64 unseen;		/* connections whose first bytes were not looked at, for the same reason */
	u64 unfollowed;		/* more than can be followed at once */
	u64 followed;		/* now */
	struct budget first_heads;
	struct budget more_heads;
	struct budget queries;
	struct budget ends;
	u64 lives[40];		/* of those accepted: bucket n holds 2^n <= us < 2^(n+1) */
};

enum { KIND_PIECE = 1, KIND_ENDED = 2, KIND_DNS = 3, KIND_DNS_REFUSED = 4 };

struct piece {
	u32 kind;
	u32 size;		/* of what is here of it */
	u64 at;
	u64 cookie;
	u64 offset;		/* in its direction */
	u32 tid;
	u32 length;		/* of all of it */
	u32 flags;		/* of the connection */
	u16 family;
	u16 port;		/* of the peer */
	u8 remote[16];
	u8 way;
	u8 unused[7];
};

struct ended {
	u32 kind;
	u32 unused;
	struct connection connection;
};

/* At most so many are followed at once: a bound for memory. Set before loading. */
volatile const u32 most_followed = 32768;
volatile const u32 most_first_heads = 300;
volatile const u32 most_more_heads = 200;
volatile const u32 most_queries = 300;
volatile const u32 most_ends = 500;

struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, struct connection);
} connections SEC(".maps");

/* UDP sockets that asked a name server. */
struct {
	__uint(type, BPF_MAP_TYPE_SK_STORAGE);
	__uint(map_flags, BPF_F_NO_PREALLOC);
	__type(key, int);
	__type(value, u32);
} asking SEC(".maps");

/* Ports that the process listens on: a bit each. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, u64);
} ports SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct shared);
} shared SEC(".maps");

struct watch {
	u64 begun;	/* set once those that were there before are known */
	u64 since;	/* what was last read or written before then says nothing: others may have been missed */
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct watch);
} watching SEC(".maps");

/* The first of two readings of the kernel's ticks, which tell their length; then nothing but that. */
struct ticks {
	u64 ticks;
	u64 at;
};

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct ticks);
} first_tick SEC(".maps");

/* Reads and writes of the process. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} transfers SEC(".maps");

/* A head, while it is searched. */
struct head {
	u8 bytes[512];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct head);
} heads SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1 << 20);
} events SEC(".maps");

#define count(what) __sync_fetch_and_add(&(what), 1)

static __always_inline struct shared *the_shared(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&shared, &zero);
}

/* Two processors may both begin a new second; that lets a few more through. */
static __always_inline bool spend(struct budget *budget, u64 now, u64 at_most)
{
	if (now - budget->since > 1000000000) {
		budget->since = now;
		budget->used = 0;
	}
	if (budget->used >= at_most)
		return false;
	count(budget->used);
	return true;
}

static __always_inline bool is_listened_on(u16 port)
{
	u32 word = port >> 6;
	u64 *bits = bpf_map_lookup_elem(&ports, &word);
	return bits && (*bits >> (port & 63) & 1);
}

static __always_inline void listens_on(u16 port)
{
	u32 word = port >> 6;
	u64 *bits = bpf_map_lookup_elem(&ports, &word);
	if (bits)
		__sync_fetch_and_or(bits, 1ULL << (port & 63));
}

static __always_inline void copy_ends(struct connection *c, const struct sock *sk)
{
	c->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	if (c->family == AF_INET6) {
		BPF_CORE_READ_INTO(&c->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO(&c->remote, sk, __sk_common.skc_v6_daddr);
	} else {
		*(u32 *)c->local = BPF_CORE_READ(sk, __sk_common.skc_rcv_saddr);
		*(u32 *)c->remote = BPF_CORE_READ(sk, __sk_common.skc_daddr);
	}
	c->remote_port = bpf_ntohs(BPF_CORE_READ(sk, __sk_common.skc_dport));
	c->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
}

static __always_inline void read_totals(u64 totals[2], const struct sock *sk)
{
	struct tcp_sock *tcp = (void *)sk;

	totals[READ] = BPF_CORE_READ(tcp, bytes_received);
	totals[WRITE] = BPF_CORE_READ(tcp, bytes_sent) - BPF_CORE_READ(tcp, bytes_retrans);
}

/* A connection that is followed from now on; NULL when there are too many. */
static __always_inline struct connection *follow(struct sock *sk, struct shared *all)
{
	struct connection *c;

	if (all->followed >= most_followed) {
		count(all->unfollowed);
		return 0;
	}
	c = bpf_sk_storage_get(&connections, sk, 0, BPF_SK_STORAGE_GET_F_CREATE);
	if (!c) {
		count(all->unfollowed);
		return 0;
	}
	/* The same socket may connect again. */
	if (!c->cookie || c->flags & ENDED)
		count(all->followed);
	__builtin_memset(c, 0, sizeof(*c));
	c->cookie = bpf_get_socket_cookie(sk);
	c->turn = NEITHER;
	c->fd = -1;
	copy_ends(c, sk);
	read_totals(c->totals_before, sk);
	return c;
}

/* The highest bit that is set. Not static: verified once, and not for each path to it. */
__noinline u32 highest(u64 bits)
{
	u32 at = 0;

	if (bits >> 32) { bits >>= 32; at += 32; }
	if (bits >> 16) { bits >>= 16; at += 16; }
	if (bits >> 8) { bits >>= 8; at += 8; }
	if (bits >> 4) { bits >>= 4; at += 4; }
	if (bits >> 2) { bits >>= 2; at += 2; }
	return at + (bits >> 1);
}

static __always_inline void count_end(struct connection *c, struct shared *all)
{
	u32 bucket, idle;

	count(all->closed);
	if (c->flags & RESET_RECEIVED)
		count(all->reset_by_peer);
	if (c->flags & RESET_SENT)
		count(all->reset_by_us);
	if (!(c->flags & ACCEPTED))
		return;
	/* Work may go one way: a log that is received, a banner that is sent. What is none is a connection on which nothing
	 * passed, or that was reset before both had said something. The peer's FIN counts as a byte that was received. */
	idle = (c->totals[READ] - c->totals_before[READ] <= !!c->fin) + (c->totals[WRITE] == c->totals_before[WRITE]);
	if (idle == 2 || (idle == 1 && c->flags & RESET_RECEIVED))
		count(all->little_work);
	bucket = highest((c->ended - c->opened) / 1000);
	if (bucket < 40)
		count(all->lives[bucket]);
}

static __noinline void tell_end(struct connection *c, struct shared *all, u64 now)
{
	struct ended *event;

	if (!spend(&all->ends, now, most_ends)) {
		count(all->untold);
		return;
	}
	event = bpf_ringbuf_reserve(&events, sizeof(*event), 0);
	if (!event) {
		count(all->dropped);
		return;
	}
	event->kind = KIND_ENDED;
	event->unused = 0;
	__builtin_memcpy(&event->connection, c, sizeof(*c));
	bpf_ringbuf_submit(event, 0);
}

/* The process has it for certain: it uses it. */
static __always_inline void claim(struct connection *c, struct shared *all, u32 tid, u64 now)
{
	if (c->flags & CLAIMED)
		return;
	c->flags |= CLAIMED;
	c->tid = tid;
	if (c->flags & ACCEPTED && !(c->flags & BEFORE))
		count(all->accepted);
	/* It may have ended before the process came to it. */
	if (c->flags & ENDED) {
		count_end(c, all);
		tell_end(c, all, now);
	}
}

static __always_inline void end(struct connection *c, struct shared *all, struct sock *sk, u8 state, u64 now)
{
	if (c->flags & ENDED)
		return;
	c->flags |= ENDED;
	c->ended = now;
	c->state = state;
	read_totals(c->totals, sk);
	__sync_fetch_and_sub(&all->followed, 1);
	if (c->flags & CLAIMED) {
		count_end(c, all);
		tell_end(c, all, now);
	}
}
