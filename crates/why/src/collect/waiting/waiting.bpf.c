/* What the threads of the process do between two system calls, and where.
 *
 * - `enter` and `leave` see every system call of the machine, so they are attached for short windows only, unless the
 *   machine is quiet. They count in maps; nothing is sent for each call.
 * - `sample` asks, some times a second and on each processor, where the process computes.
 *
 * Places are those of places.bpf.h; the iterator over threads is that of tasks.bpf.h. */
#include "overdue.bpf.h"
#include "tasks.bpf.h"

#define EAGAIN 11
#define ETIME 62
#define MAX_ERRNO 4095
#define TS_COMPAT 2

/* Numbers of x86-64. */
enum {
	NR_read = 0, NR_write = 1, NR_open = 2, NR_close = 3, NR_poll = 7, NR_readv = 19, NR_writev = 20, NR_pipe = 22,
	NR_select = 23, NR_dup = 32, NR_dup2 = 33, NR_sendfile = 40, NR_socket = 41, NR_connect = 42, NR_accept = 43,
	NR_sendto = 44, NR_recvfrom = 45, NR_sendmsg = 46, NR_recvmsg = 47, NR_bind = 49, NR_listen = 50,
	NR_socketpair = 53, NR_fcntl = 72, NR_creat = 85, NR_epoll_create = 213, NR_epoll_wait = 232,
	NR_inotify_init = 253, NR_openat = 257, NR_pselect6 = 270, NR_ppoll = 271, NR_splice = 275,
	NR_epoll_pwait = 281, NR_signalfd = 282, NR_timerfd_create = 283, NR_eventfd = 284, NR_accept4 = 288,
	NR_signalfd4 = 289, NR_eventfd2 = 290, NR_epoll_create1 = 291, NR_dup3 = 292, NR_pipe2 = 293,
	NR_inotify_init1 = 294, NR_recvmmsg = 299, NR_sendmmsg = 307, NR_memfd_create = 319,
	NR_io_uring_setup = 425, NR_io_uring_enter = 426, NR_pidfd_open = 434, NR_openat2 = 437,
	NR_epoll_pwait2 = 441,
};
#define F_DUPFD 0
#define F_DUPFD_CLOEXEC 1030
#define IORING_ENTER_GETEVENTS 1
#define IORING_ENTER_EXT_ARG 8

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info {
	u32 status;
};
struct task_struct___compat {
	struct thread_info thread_info;
};

#pragma clang attribute pop

enum poll_call { EPOLL, POLL, SELECT, IO_URING };
enum limit { UNKNOWN, ZERO, SHORT, LONG, UNLIMITED };

/* When the window was opened (CLOCK_MONOTONIC); 0 while it is not open. */
struct window {
	u64 opened_ns;
};
/* What was lost because a table was full, and how many calls of the whole machine went through here. */
struct tally {
	u64 lost_entries;
	u64 lost_stacks;
	u64 calls;
	u64 samples;
};
/* The poll that a thread is in. */
struct inside {
	u64 since_ns;
	u32 call;
	u32 limit;
};
struct poll_key {
	u32 tid;
	u32 call;
};
struct poll {
	u64 returns, empty, failed, partial;
	u64 zero, brief, lengthy, unlimited;
	u64 inside_ns;
	u64 place;
};
struct ready_key {
	u64 data;
	u32 tid;
	s32 epfd; /* of poll -1, of select -2 */
};
struct ready {
	u64 times;
	u64 events;
};
struct use {
	u64 used;
	u64 ends;
};
struct call_key {
	u32 tid;
	u16 nr;
	u16 error;
};
struct failure_key {
	u16 nr;
	u16 error;
	u32 unused;
};
struct failure {
	u64 place;
	u64 count;
	s32 fd;
	u32 tid;
	u8 peer[32];
};
struct opened {
	u64 place;
	u64 at_ns;
	u32 nr;
	u32 tid;
};
struct sample_key {
	u64 place;
	u32 tid;
	u32 unused;
};
MAP(window, ARRAY, 1, u32, struct window);
MAP(tally, PERCPU_ARRAY, 1, u32, struct tally);
/* Keyed by the thread, so that only that thread writes an entry: no atomics, no copy for each processor. */
MAP(inside, HASH, 4096, u32, struct inside);
MAP(polls, HASH, 1024, struct poll_key, struct poll);
MAP(ready, HASH, 4096, struct ready_key, struct ready);
MAP(calls, HASH, 8192, struct call_key, u64);
/* Shared by threads. */
MAP(uses, HASH, 4096, u32, struct use);
MAP(failures, HASH, 256, struct failure_key, struct failure);
MAP(opened, HASH, 4096, u32, struct opened);
MAP(samples, HASH, 8192, struct sample_key, u64);

static __always_inline struct tally *counters(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&tally, &zero);
}

static __always_inline void lost_entry(void)
{
	struct tally *count = counters();
	if (count)
		count->lost_entries++;
}

static __always_inline void lost_stack(void)
{
	struct tally *count = counters();
	if (count)
		count->lost_stacks++;
}

#include "places.bpf.h"

OWN s32 poll_call(u64 nr)
{
	switch (nr) {
	case NR_epoll_wait:
	case NR_epoll_pwait:
	case NR_epoll_pwait2:
		return EPOLL;
	case NR_poll:
	case NR_ppoll:
		return POLL;
	case NR_select:
	case NR_pselect6:
		return SELECT;
	case NR_io_uring_enter:
		return IO_URING;
	}
	return -1;
}

static __always_inline u32 limit_of_ms(s32 ms)
{
	return ms < 0 ? UNLIMITED : ms == 0 ? ZERO : ms <= 2 ? SHORT : LONG;
}

/* `unit` is how many nanoseconds the second word counts. */
static __always_inline u32 limit_at(u64 pointer, u32 unit)
{
	s64 time[2];
	if (!pointer)
		return UNLIMITED;
	if (bpf_probe_read_user(time, sizeof(time), (void *)pointer))
		return UNKNOWN;
	if (time[0] > 0)
		return LONG;
	return time[1] <= 0 ? ZERO : time[1] <= 2000000 / unit ? SHORT : LONG;
}

static __always_inline u32 limit_of_uring(struct pt_regs *regs)
{
	u64 argument[3];
	/* Without it the call submits, and does not wait. */
	if (!(regs->r10 & IORING_ENTER_GETEVENTS))
		return UNKNOWN;
	if (!(u32)regs->dx)
		return ZERO;
	if (!(regs->r10 & IORING_ENTER_EXT_ARG) || !regs->r8)
		return UNLIMITED;
	if (bpf_probe_read_user(argument, sizeof(argument), (void *)regs->r8))
		return UNKNOWN;
	return limit_at(argument[2], 1);
}

/* `entering`: later, what a pointer points to may have been overwritten with the time that was left. */
static __always_inline u32 limit_of(struct pt_regs *regs, u64 nr, bool entering)
{
	switch (nr) {
	case NR_epoll_wait:
	case NR_epoll_pwait:
		return limit_of_ms((s32)regs->r10);
	case NR_poll:
		return limit_of_ms((s32)regs->dx);
	case NR_epoll_pwait2:
		return limit_at(regs->r10, 1);
	case NR_ppoll:
		return regs->dx && !entering ? UNKNOWN : limit_at(regs->dx, 1);
	case NR_select:
		return regs->r8 && !entering ? UNKNOWN : limit_at(regs->r8, 1000);
	case NR_pselect6:
		return regs->r8 && !entering ? UNKNOWN : limit_at(regs->r8, 1);
	case NR_io_uring_enter:
		return limit_of_uring(regs);
	}
	return UNKNOWN;
}

static __always_inline bool is_compat(void)
{
	struct task_struct___compat *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter, struct pt_regs *regs, long nr)
{
	s32 call = poll_call(nr);
	if (call < 0)
		return 0;
	u32 tid = watched_tid();
	if (!tid || is_compat())
		return 0;
	struct inside now = {.since_ns = bpf_ktime_get_ns(), .call = call, .limit = limit_of(regs, nr, true)};
	if (bpf_map_update_elem(&inside, &tid, &now, BPF_ANY))
		lost_entry();
	return 0;
}

OWN int add_ready(u32 tid, s32 epfd, u64 data, u64 events)
{
	struct ready_key key = {.data = data, .tid = tid, .epfd = epfd};
	struct ready *known = bpf_map_lookup_elem(&ready, &key);
	if (known) {
		known->times++;
		known->events |= events;
		return 0;
	}
	struct ready fresh = {.times = 1, .events = events};
	if (bpf_map_update_elem(&ready, &key, &fresh, BPF_NOEXIST))
		lost_entry();
	return 0;
}

#define LOOKED 8
OWN int ready_of_epoll(u32 tid, s32 epfd, u64 array, s64 count)
{
	/* The kernel packs them on this architecture: 12 bytes each. */
	u32 events[LOOKED * 3];
	if (count <= 0)
		return 0;
	if (count > LOOKED)
		count = LOOKED;
	u32 bytes = (u32)count * 12;
	if (bytes > sizeof(events) || bpf_probe_read_user(events, bytes, (void *)array))
		return 0;
	for (int i = 0; i < LOOKED; i++) {
		if (i >= count)
			break;
		add_ready(tid, epfd, (u64)events[i * 3 + 1] | (u64)events[i * 3 + 2] << 32, events[i * 3]);
	}
	return 0;
}

#define POLLED 16
OWN int ready_of_poll(u32 tid, u64 array, u64 count)
{
	struct { s32 fd; u16 events, revents; } polled[POLLED] = {};
	if (count > POLLED)
		count = POLLED;
	u32 bytes = (u32)count * 8;
	if (bytes > sizeof(polled) || bpf_probe_read_user(polled, bytes, (void *)array))
		return 0;
	for (int i = 0; i < POLLED; i++) {
		if (i >= count)
			break;
		if (polled[i].revents)
			add_ready(tid, -1, (u32)polled[i].fd, polled[i].revents);
	}
	return 0;
}

OWN u32 lowest(u64 bits)
{
	u32 at = 0;
	if (!(bits & 0xffffffff)) { at += 32; bits >>= 32; }
	if (!(bits & 0xffff)) { at += 16; bits >>= 16; }
	if (!(bits & 0xff)) { at += 8; bits >>= 8; }
	if (!(bits & 0xf)) { at += 4; bits >>= 4; }
	if (!(bits & 3)) { at += 2; bits >>= 2; }
	return at + !(bits & 1);
}

/* The first 256 descriptors of one set; of these the first eight that are ready. */
OWN int ready_of_select(u32 tid, u64 set, u64 count, u32 event)
{
	u64 words[4] = {};
	int left = 8;
	if (!set)
		return 0;
	u32 bytes = count >= 256 ? 32 : ((u32)count + 63) / 64 * 8;
	/* The compiler knows that it is never more, the verifier does not: the question must stay. */
	asm volatile("" : "+r"(bytes));
	if (bytes > sizeof(words) || bpf_probe_read_user(words, bytes, (void *)set))
		return 0;
	for (int i = 0; i < 4; i++) {
		u64 bits = words[i];
		for (int j = 0; j < 8 && bits && left > 0; j++, left--) {
			add_ready(tid, -2, i * 64 + lowest(bits), event);
			bits &= bits - 1;
		}
	}
	return 0;
}

static __always_inline void polled(struct pt_regs *regs, u64 nr, u32 call, s64 result, u32 tid,
								   u64 opened_ns)
{
	u64 now = bpf_ktime_get_ns();
	u64 since = opened_ns;
	u32 limit = UNKNOWN;
	bool whole = false;
	struct inside *entered = bpf_map_lookup_elem(&inside, &tid);
	if (entered) {
		if (entered->since_ns >= opened_ns && entered->call == call) {
			since = entered->since_ns;
			limit = entered->limit;
			whole = true;
		}
		entered->since_ns = 0;
	}
	if (!whole)
		limit = limit_of(regs, nr, false);

	struct poll_key key = {.tid = tid, .call = call};
	struct poll *count = bpf_map_lookup_elem(&polls, &key);
	if (!count) {
		struct poll fresh = {};
		bpf_map_update_elem(&polls, &key, &fresh, BPF_NOEXIST);
		count = bpf_map_lookup_elem(&polls, &key);
		if (!count) {
			lost_entry();
			return;
		}
	}
	if (call == IO_URING ? result == -ETIME : result == 0)
		count->empty++;
	else if (result < 0)
		count->failed++;
	count->partial += !whole;
	count->zero += limit == ZERO;
	count->brief += limit == SHORT;
	count->lengthy += limit == LONG;
	count->unlimited += limit == UNLIMITED;
	if (now > since)
		count->inside_ns += now - since;
	/* Once in a while: it costs as much as all the rest. */
	if (!(count->returns++ & 255)) {
		u64 place = place_of(regs->ip, regs->sp, regs->bp, IN_CALL);
		if (place)
			count->place = place;
	}
	if (result <= 0)
		return;
	if (call == EPOLL) {
		ready_of_epoll(tid, (s32)regs->di, regs->si, result);
	} else if (call == POLL) {
		ready_of_poll(tid, regs->di, regs->si);
	} else if (call == SELECT) {
		ready_of_select(tid, regs->si, regs->di, 1);
		ready_of_select(tid, regs->dx, regs->di, 4);
	}
}

OWN int use(u32 fd, bool ended)
{
	struct use *known = bpf_map_lookup_elem(&uses, &fd);
	if (!known) {
		struct use fresh = {};
		bpf_map_update_elem(&uses, &fd, &fresh, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&uses, &fd);
		if (!known) {
			lost_entry();
			return 0;
		}
	}
	if (ended)
		__sync_fetch_and_add(&known->ends, 1);
	else
		__sync_fetch_and_add(&known->used, 1);
	return 0;
}

/* What a call did to the descriptor in its first argument, of which `asked` bytes were to be read. */
OWN int used(u64 nr, u32 fd, u64 asked, s64 result)
{
	bool reads = false;
	switch (nr) {
	case NR_read:
	case NR_recvfrom:
		/* Nothing asked for, nothing got. */
		if (!result && !asked)
			return 0;
		reads = true;
		break;
	case NR_readv:
	case NR_recvmsg:
		reads = true;
		break;
	case NR_accept:
	case NR_accept4:
		if (result >= 0)
			use(fd, false);
		return 0;
	case NR_write:
	case NR_writev:
	case NR_sendto:
	case NR_sendmsg:
	case NR_sendmmsg:
	case NR_recvmmsg:
	case NR_sendfile:
	case NR_splice:
		break;
	default:
		return 0;
	}
	if (result > 0)
		use(fd, false);
	else if (!result && reads)
		use(fd, true);
	return 0;
}

OWN int is_rare(u64 nr)
{
	switch (nr) {
	case NR_connect: case NR_accept: case NR_accept4: case NR_socket: case NR_open: case NR_openat: case NR_openat2:
	case NR_creat: case NR_close: case NR_bind: case NR_listen: case NR_pipe: case NR_pipe2: case NR_dup: case NR_dup2:
	case NR_dup3: case NR_epoll_create: case NR_epoll_create1: case NR_eventfd: case NR_eventfd2: case NR_socketpair:
	case NR_timerfd_create: case NR_memfd_create: case NR_signalfd: case NR_signalfd4: case NR_inotify_init:
	case NR_inotify_init1: case NR_io_uring_setup: case NR_pidfd_open: case NR_fcntl:
		return true;
	}
	return false;
}

/* Whether the first argument is a descriptor. */
OWN int takes_fd(u64 nr)
{
	switch (nr) {
	case NR_connect: case NR_accept: case NR_accept4: case NR_close: case NR_bind: case NR_listen: case NR_dup:
	case NR_dup2: case NR_dup3: case NR_fcntl:
		return true;
	}
	return false;
}

OWN int opens(u32 fd, u64 place, u32 nr, u32 tid)
{
	struct opened it = {.place = place, .at_ns = bpf_ktime_get_ns(), .nr = nr, .tid = tid};
	if (bpf_map_update_elem(&opened, &fd, &it, BPF_ANY))
		lost_entry();
	return 0;
}

static __always_inline void rare(struct pt_regs *regs, u64 nr, s64 result, u32 tid)
{
	if (nr == NR_fcntl && (u32)regs->si != F_DUPFD && (u32)regs->si != F_DUPFD_CLOEXEC)
		return;
	if (result < 0) {
		struct failure_key key = {.nr = nr, .error = -result};
		struct failure *known = bpf_map_lookup_elem(&failures, &key);
		if (!known) {
			struct failure fresh = {};
			bpf_map_update_elem(&failures, &key, &fresh, BPF_NOEXIST);
			known = bpf_map_lookup_elem(&failures, &key);
			if (!known) {
				lost_entry();
				return;
			}
		}
		known->fd = takes_fd(nr) ? (s32)regs->di : -1;
		known->tid = tid;
		/* Nothing to accept is no failure, and one that comes all the time is not looked at each time. */
		if (result != -EAGAIN && !(__sync_fetch_and_add(&known->count, 1) & 63)) {
			u64 place = place_of(regs->ip, regs->sp, regs->bp, IN_CALL);
			if (place)
				known->place = place;
		}
		if (nr == NR_connect) {
			/* An address of IPv6; where there is less memory, of IPv4. */
			if (bpf_probe_read_user(known->peer, 28, (void *)regs->si))
				bpf_probe_read_user(known->peer, 16, (void *)regs->si);
		}
		return;
	}
	switch (nr) {
	case NR_close: {
		u32 fd = regs->di;
		bpf_map_delete_elem(&opened, &fd);
		return;
	}
	case NR_connect:
	case NR_bind:
	case NR_listen:
		return;
	}
	u64 place = place_of(regs->ip, regs->sp, regs->bp, IN_CALL);
	if (nr == NR_pipe || nr == NR_pipe2 || nr == NR_socketpair) {
		u32 pair[2];
		u64 array = nr == NR_socketpair ? regs->r10 : regs->di;
		if (bpf_probe_read_user(pair, sizeof(pair), (void *)array))
			return;
		opens(pair[0], place, nr, tid);
		opens(pair[1], place, nr, tid);
		return;
	}
	opens((u32)result, place, nr, tid);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(leave, struct pt_regs *regs, long result)
{
	u32 zero = 0;
	struct window *open = bpf_map_lookup_elem(&window, &zero);
	if (!open)
		return 0;
	u64 opened_ns = open->opened_ns;
	if (!opened_ns)
		return 0;
	struct tally *count = counters();
	if (count)
		count->calls++;
	u32 tid = watched_tid();
	if (!tid)
		return 0;
	u64 nr = regs->orig_ax;
	if (nr > 1023 || is_compat())
		return 0;

	struct call_key key = {.tid = tid, .nr = nr, .error = result < 0 && result >= -MAX_ERRNO ? -result : 0};
	u64 *times = bpf_map_lookup_elem(&calls, &key);
	if (times) {
		(*times)++;
	} else {
		u64 one = 1;
		if (bpf_map_update_elem(&calls, &key, &one, BPF_NOEXIST))
			lost_entry();
	}
	s32 call = poll_call(nr);
	if (call >= 0)
		polled(regs, nr, call, result, tid, opened_ns);
	else if (is_rare(nr))
		rare(regs, nr, result, tid);
	used(nr, regs->di, regs->dx, result);
	return 0;
}

SEC("perf_event")
int sample(void *ctx)
{
	u32 tid = watched_tid();
	if (!tid)
		return 0;
	struct tally *count = counters();
	if (count)
		count->samples++;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (!regs)
		return 0;
	struct sample_key key = {.place = place_of(regs->ip, regs->sp, regs->bp, 5), .tid = tid};
	u64 *times = bpf_map_lookup_elem(&samples, &key);
	if (times) {
		__sync_fetch_and_add(times, 1);
		return 0;
	}
	u64 one = 1;
	if (bpf_map_update_elem(&samples, &key, &one, BPF_NOEXIST))
		lost_entry();
	return 0;
}
