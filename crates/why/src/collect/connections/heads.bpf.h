/* The first bytes of reads and writes: where they lie in the process, and which are worth a look. */
#pragma once
#include "follow.bpf.h"

/* Where the user's bytes of the current system call are. */
struct span {
	u64 base;
	u64 length;
};

struct user_iovec {
	u64 base;
	u64 length;
};

struct user_msghdr {
	u64 name;
	u32 name_length;
	u32 unused;
	u64 iov;
	u64 iov_count;
	u64 control;
	u64 control_length;
	u32 flags;
	u32 unused2;
};

struct user_mmsghdr {
	struct user_msghdr header;
	u32 length;
	u32 unused;
};

struct places {
	u64 iov;	/* 0: one span alone */
	u64 iov_count;
	struct span one;
	u64 name;	/* the peer's address, where the call has one */
};

/* The functions that are not static are verified once for each program, whatever they are called with, and not once
 * more for each path that leads to them: attaching takes half the time. They take addresses as numbers for that. */

/* As a number, which the verifier makes of no pointer by itself. */
static __always_inline u64 address_of(struct sock *sk)
{
	u64 address = 0;

	bpf_probe_read_kernel(&address, sizeof(address), &sk);
	return address;
}

/* Whether that descriptor of the current process is the socket at this address. */
static __always_inline bool is_socket(u32 fd, u64 sk)
{
	struct task_struct___more *task = (void *)bpf_get_current_task();
	struct fdtable *table = BPF_CORE_READ(task, files, fdt);
	struct file **files, *file = 0;
	struct socket *socket;

	if (fd >= BPF_CORE_READ(table, max_fds))
		return false;
	files = BPF_CORE_READ(table, fd);
	if (bpf_probe_read_kernel(&file, sizeof(file), files + fd))
		return false;
	/* Of another kind of file this is not a socket, but then what is read there is not this one's address. */
	socket = BPF_CORE_READ(file, private_data);
	return (u64)BPF_CORE_READ(socket, sk) == sk;
}

/* From the registers that the current system call was made with. It fails for calls that carry no buffers (sendfile),
 * and for io_uring, whose work may be done in any system call: the descriptor must be this socket. */
__noinline bool find_places(u64 sk, struct places *places)
{
	struct pt_regs___x86 *regs = (void *)bpf_task_pt_regs(bpf_get_current_task_btf());
	struct user_mmsghdr message = {};
	u64 number, si;

	if (!places)
		return false;
	number = BPF_CORE_READ(regs, orig_ax);
	si = BPF_CORE_READ(regs, si);
	places->iov = 0;
	places->name = 0;
	if (!is_socket(BPF_CORE_READ(regs, di), sk))
		return false;
	switch (number) {
	case 44: /* sendto */
	case 45: /* recvfrom */
		places->name = BPF_CORE_READ(regs, r8);
	case 0: /* read */
	case 1: /* write */
		places->one.base = si;
		places->one.length = BPF_CORE_READ(regs, dx);
		return true;
	case 19: /* readv */
	case 20: /* writev */
	case 327: /* preadv2 */
	case 328: /* pwritev2 */
		places->iov = si;
		places->iov_count = BPF_CORE_READ(regs, dx);
		return true;
	case 46: /* sendmsg */
	case 47: /* recvmsg */
		if (bpf_probe_read_user(&message.header, sizeof(message.header), (void *)si))
			return false;
		break;
	case 299: /* recvmmsg */
	case 307: /* sendmmsg */
		/* The kernel fills in the length of each that is done: the first without one is being done. */
		for (int i = 0; i < 8; i++) {
			if (bpf_probe_read_user(&message, sizeof(message), (void *)(si + i * sizeof(message))))
				return false;
			if (!message.length)
				break;
		}
		break;
	default:
		return false;
	}
	places->name = message.header.name;
	places->iov = message.header.iov;
	places->iov_count = message.header.iov_count;
	return true;
}

/* Three sizes, as the ring wants them constant. */
#define SMALL 64
#define MIDDLE 512
#define LARGE 2048

#define FILL(capacity)                                                                              \
	do {                                                                                        \
		struct piece *out = bpf_ringbuf_reserve(&events, sizeof(*out) + (capacity), 0);     \
		if (!out)                                                                           \
			return false;                                                               \
		__builtin_memcpy(out, piece, sizeof(*out));                                         \
		out->size = ((size - 1) & ((capacity) - 1)) + 1;                                    \
		if (bpf_probe_read_user(out + 1, ((size - 1) & ((capacity) - 1)) + 1, (void *)base)) \
			out->size = 0;                                                              \
		bpf_ringbuf_submit(out, 0);                                                         \
	} while (0)

/* Sends the first bytes of a span. */
__noinline bool send_piece(struct piece *piece, u64 base, u64 length, u64 at_most)
{
	u64 size = length < at_most ? length : at_most;

	if (!piece || !size)
		return true;
	if (size <= SMALL) {
		FILL(SMALL);
	} else if (size <= MIDDLE) {
		FILL(MIDDLE);
	} else {
		if (size > LARGE)
			size = LARGE;
		FILL(LARGE);
	}
	return true;
}

/* What was just read or written, span by span. */
__noinline bool send_pieces(struct piece *piece, struct places *places, u64 at_most)
{
	u64 left;

	if (!piece || !places)
		return true;
	left = piece->length;
	if (!places->iov)
		return send_piece(piece, places->one.base,
				  left < places->one.length ? left : places->one.length, at_most);
	for (int i = 0; i < 4 && i < places->iov_count && left; i++) {
		struct user_iovec span;
		u64 length;

		if (bpf_probe_read_user(&span, sizeof(span), (void *)(places->iov + i * sizeof(span))))
			return true;
		length = left < span.length ? left : span.length;
		if (!send_piece(piece, span.base, length, at_most))
			return false;
		piece->offset += length;
		left -= length;
	}
	return true;
}

/* A head that is searched. */
struct search {
	struct head *head;
	u64 last;	/* the last eight bytes */
	bool chunked;
	bool ended;
};

static long search_byte(u32 at, struct search *search)
{
	if (at >= sizeof(search->head->bytes))
		return 1;
	search->last = search->last >> 8 | (u64)search->head->bytes[at] << 56;
	/* "chunked\r" */
	if (search->last == 0x0d64656b6e756863)
		search->chunked = true;
	search->ended = search->last >> 32 == 0x0a0d0a0d;
	return search->ended;
}

/* Goes on through a head: whether it says that a body comes in chunks, and where it ends. What is behind the first 512
 * bytes of a span is not seen. Not static, so it is verified once, and returns something, as such functions must. */
__noinline bool search_span(struct connection *c, u64 base, u64 length)
{
	u32 zero = 0, size = length < sizeof(struct head) ? length : sizeof(struct head);
	struct search search = { .head = bpf_map_lookup_elem(&heads, &zero) };

	if (!c || !size)
		return true;
	if (!search.head ||
	    bpf_probe_read_user(search.head->bytes, ((size - 1) & (sizeof(struct head) - 1)) + 1, (void *)base)) {
		c->flags &= ~HEAD_OPEN;
		return true;
	}
	/* Nothing of it was searched yet: it begins as an answer does, as far as it is here. */
	if (!c->searched &&
	    (search.head->bytes[0] != 'H' || (size > 1 && search.head->bytes[1] != 'T') ||
	     (size > 2 && search.head->bytes[2] != 'T') || (size > 3 && search.head->bytes[3] != 'P'))) {
		c->flags &= ~HEAD_OPEN;
		return true;
	}
	search.last = c->searched;
	bpf_loop(size, search_byte, &search, 0);
	c->searched = search.last;
	if (search.chunked) {
		c->flags |= CHUNKED;
		__builtin_memset(c->tail, 0, sizeof(c->tail));
	}
	if (search.ended || length > size)
		c->flags &= ~HEAD_OPEN;
	return true;
}

/* The same with what was just read, span by span. */
__noinline bool search_head(struct connection *c, struct places *places, u64 left)
{
	if (!c || !places)
		return true;
	if (!places->iov) {
		search_span(c, places->one.base, left < places->one.length ? left : places->one.length);
		left = 0;
	}
	for (int i = 0; i < 4 && i < places->iov_count && left && c->flags & HEAD_OPEN; i++) {
		struct user_iovec span;
		u64 length;

		if (bpf_probe_read_user(&span, sizeof(span), (void *)(places->iov + i * sizeof(span))))
			break;
		length = left < span.length ? left : span.length;
		search_span(c, span.base, length);
		left -= length;
	}
	c->head_reads++;
	if (left || c->head_reads >= HEAD_READS)
		c->flags &= ~HEAD_OPEN;
	return true;
}

/* Adds the last bytes of a span of what was just read. */
static __always_inline void shift_in(struct connection *c, u64 base, u64 length)
{
	u32 tail, came = 0, size = length < 4 ? length : 4;

	if (!size || bpf_probe_read_user(&came, size, (void *)(base + length - size)))
		return;
	/* What is first in memory is lowest in a number. */
	__builtin_memcpy(&tail, c->tail, sizeof(tail));
	tail = ((u64)came << 32 | tail) >> 8 * size;
	__builtin_memcpy(c->tail, &tail, sizeof(tail));
}

/* Keeps the last bytes of what was just read: those of the last chunk tell that the answer is whole. They may lie in
 * more spans than one. */
static __noinline void keep_tail(struct sock *sk, struct connection *c, u64 length)
{
	struct places places = {};
	u64 left = length;

	if (!sk || !c)
		return;
	if (!find_places(address_of(sk), &places)) {
		c->flags &= ~CHUNKED;
		return;
	}
	if (!places.iov) {
		shift_in(c, places.one.base, length);
		return;
	}
	for (int i = 0; i < 4 && i < places.iov_count && left; i++) {
		struct user_iovec span;

		if (bpf_probe_read_user(&span, sizeof(span), (void *)(places.iov + i * sizeof(span))))
			break;
		if (left < span.length)
			span.length = left;
		shift_in(c, span.base, span.length);
		left -= span.length;
	}
	if (left)
		c->flags &= ~CHUNKED;
}

/* A read or write that brought bytes. */
struct transfer {
	u64 now;
	u32 way;
	u32 length;
	u32 tid;
	u32 new_turn;	/* the first after one in the other direction */
};

/* The first bytes of what was just read or written, if it is time for that. */
static __noinline void look(struct sock *sk, struct connection *c, struct shared *all, struct transfer *t)
{
	struct piece piece = {};
	struct places places = {};
	struct way *w;
	u64 at_most = MIDDLE, now;

	if (!sk || !c || !all || !t)
		return;
	now = t->now;
	w = t->way == WRITE ? &c->ways[WRITE] : &c->ways[READ];
	if (!(c->flags & DECIDED)) {
		c->flags |= DECIDED;
		if (spend(&all->first_heads, now, most_first_heads))
			c->flags |= LOOKED_AT;
		else
			count(all->unseen);
	}
	if (t->way == READ && c->flags & HEAD_OPEN) {
		/* More of a head. */
	} else if (c->flags & LOOKED_AT && !w->pieces) {
		/* The first in this direction. */
	} else if (c->flags & LOOKED_AT && c->flags & (TLS | HTTP2) && w->pieces < HANDSHAKE_PIECES) {
		/* More of the handshake; further frames. */
	} else if (c->flags & (TLS | HTTP2) || !t->new_turn) {
		return;
	} else if (c->flags & ANSWER_WANTED) {
		c->flags &= ~ANSWER_WANTED;
	} else {
		/* A request: what the process writes first, or reads first where it is the server. */
		if (c->flags & OPENED && t->way != WRITE)
			return;
		if (c->flags & ACCEPTED && t->way != READ)
			return;
		if (now - w->looked_at < 100000000 || !spend(&all->more_heads, now, most_more_heads))
			return;
		c->flags |= ANSWER_WANTED;
	}
	w->looked_at = now;
	w->pieces++;
	if (!find_places(address_of(sk), &places)) {
		c->flags |= BLIND;
		return;
	}
	if (!w->bytes && !(c->flags & BEFORE)) {
		u64 base = places.one.base;
		u8 first[4] = {};

		if (places.iov)
			bpf_probe_read_user(&base, sizeof(base), (void *)places.iov);
		bpf_probe_read_user(first, sizeof(first), (void *)base);
		/* A record of the kind handshake, of version 3.x. */
		if (first[0] == 22 && (t->length == 1 || first[1] == 3))
			c->flags |= TLS;
		else if (first[0] == 'P' && first[1] == 'R' && first[2] == 'I' && first[3] == ' ')
			c->flags |= HTTP2;
	}
	if (t->way == READ && c->flags & OPENED && !(c->flags & (TLS | HTTP2))) {
		if (t->new_turn) {
			c->flags |= HEAD_OPEN;
			c->searched = 0;
			c->head_reads = 0;
		}
		if (c->flags & HEAD_OPEN)
			search_head(c, &places, t->length);
	}
	/* The name asked for may come behind more than a thousand bytes of keys. */
	if (c->flags & TLS && w->pieces <= 3)
		at_most = LARGE;
	piece.kind = KIND_PIECE;
	piece.at = now;
	piece.cookie = c->cookie;
	piece.offset = w->bytes;
	piece.tid = t->tid;
	piece.length = t->length;
	piece.flags = c->flags;
	piece.family = c->family;
	piece.port = c->remote_port;
	__builtin_memcpy(piece.remote, c->remote, 16);
	piece.way = t->way;
	if (!send_pieces(&piece, &places, at_most))
		count(all->dropped);
}
