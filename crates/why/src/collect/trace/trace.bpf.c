/* Chosen system calls of the process, one record each, when they return.
 *
 * What to do with a call is in `hows`, which user space fills from its table of calls: whether it is reported, and what
 * is read for it: a path, an address, the descriptors of a poll, a limit. Never what is sent or received.
 *
 * All calls are counted in `counts`, also those that are not reported. Records are bounded in their rate: beyond it they
 * are dropped and counted, the ordinary ones before those that failed or were slow. */
#include "overdue.bpf.h"
#include "tasks.bpf.h"

#define MAX_ERRNO 4095
#define TS_COMPAT 2
#define CALLS 512
#define EINTR 4
#define EAGAIN 11
#define ENOTTY 25
#define ETIMEDOUT 110
#define EINPROGRESS 115
#define ERESTARTSYS 512
#define ERESTART_RESTARTBLOCK 516
enum {
	NR_close = 3,
	NR_ioctl = 16,
	NR_nanosleep = 35,
	NR_accept = 43,
	NR_exit = 60,
	NR_futex = 202,
	NR_clock_nanosleep = 230,
	NR_exit_group = 231,
	NR_accept4 = 288,
};
#define CLOCK_MONOTONIC 1
#define TIMER_ABSTIME 1
/* Who reads looks for news by himself: to wake him for each would cost the thread that is watched. */
#define BPF_RB_NO_WAKEUP 1
#define S_IFMT 0170000
#define S_IFSOCK 0140000
#define AF_INET 2
#define AF_INET6 10

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct thread_info {
	u32 status;
};
struct in6_addr {
	u8 bytes[16];
};
struct sock_common {
	__be32 skc_daddr;
	__be32 skc_rcv_saddr;
	__be16 skc_dport;
	u16 skc_num;
	u16 skc_family;
	volatile u8 skc_state;
	struct in6_addr skc_v6_daddr;
	struct in6_addr skc_v6_rcv_saddr;
};
struct sock {
	struct sock_common __sk_common;
	u16 sk_protocol;
	u16 sk_type;
};
struct socket {
	struct sock *sk;
};
struct qstr {
	const unsigned char *name;
};
struct dentry {
	struct qstr d_name;
};
struct path {
	struct dentry *dentry;
};
struct inode {
	unsigned short i_mode;
};
struct file {
	void *private_data;
	struct inode *f_inode;
	struct path f_path;
};
struct fdtable {
	u32 max_fds;
	struct file **fd;
};
struct files_struct {
	struct fdtable *fdt;
};
struct task_struct___trace {
	struct thread_info thread_info;
	struct files_struct *files;
};

#pragma clang attribute pop

/* When a call is reported. */
enum {
	ALWAYS = 1,
	IF_SOCKET = 2,
	IF_NOTABLE = 4, /* It failed, or took long. */
};
/* What is copied for a call. */
enum {
	NOTHING,
	PATH,	 /* of the argument `at` */
	ADDRESS, /* a socket's, of `at`; its length is the argument after it */
	ADDRESS_OUT, /* the same where the kernel wrote it */
	POLLED,	 /* what poll was given, with what is ready */
	BYTES,	 /* `size` of them, of `at`: a struct of the interface, no payload */
	OPTION,	 /* the value of a socket's option that is a number or a time */
};
/* Where a limit is. */
enum { NO_LIMIT, TIMESPEC, TIMEVAL, FUTEX, MILLISECONDS };

struct how {
	u8 report;
	u8 data;
	u8 at;
	u8 size;
	u8 limit;
	u8 limit_at;
	u8 takes_fd;
	u8 unused;
};
struct settings {
	u64 slow_ns;
	/* Records in each tenth of a second. */
	u64 tenth;
};
struct budget {
	u64 tenth;
	u64 sent;
};
struct tally {
	u64 dropped;
	u64 lost_stacks;
	u64 lost_entries;
	u64 compat;
};
/* What a descriptor is. */
struct what {
	u16 mode;
	u16 family;
	u16 protocol;
	u16 type;
	u16 local_port;
	u16 peer_port;
	u32 unused;
	u8 local[16];
	u8 peer[16];
	char name[32];
};
/* The call that a thread is in. */
struct inside {
	u64 since_ns;
	s64 limit_ns;
	u16 nr;
	u16 before; /* It began before the watch. */
	u32 unused;
	struct what closed;
};
struct count_key {
	u16 nr;
	u16 error;
};
struct count {
	u64 calls;
	u64 ns;
	u64 longest_ns;
};
#define DATA 128
struct event {
	u64 at_ns;
	u64 since_ns; /* 0: unknown */
	u64 place;
	s64 result;
	u64 args[6];
	s64 limit_ns; /* UNKNOWN, UNLIMITED */
	u32 tid;
	u16 nr;
	u8 before;
	u8 ended; /* It does not return. */
	u32 length;
	u32 unused;
	char name[16];
	struct what what;
	u8 data[DATA];
};
#define UNKNOWN -2
#define UNLIMITED -1

MAP(hows, ARRAY, CALLS, u32, struct how);
MAP(settings_map, ARRAY, 1, u32, struct settings);
MAP(budget_map, ARRAY, 1, u32, struct budget);
MAP(tally, PERCPU_ARRAY, 1, u32, struct tally);
MAP(inside, HASH, 8192, u32, struct inside);
MAP(counts, HASH, 4096, struct count_key, struct count);
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 1024 * 1024);
} events SEC(".maps");

static __always_inline struct tally *counters(void)
{
	u32 zero = 0;
	return bpf_map_lookup_elem(&tally, &zero);
}

static __always_inline void lost_stack(void)
{
	struct tally *count = counters();
	if (count)
		count->lost_stacks++;
}

#include "places.bpf.h"

static __always_inline void lost_entry(void)
{
	struct tally *count = counters();
	if (count)
		count->lost_entries++;
}

static __always_inline bool is_compat(void)
{
	struct task_struct___trace *task = (void *)bpf_get_current_task();
	return BPF_CORE_READ(task, thread_info.status) & TS_COMPAT;
}

static __always_inline u64 argument(struct pt_regs *regs, u32 at)
{
	switch (at) {
	case 0: return regs->di;
	case 1: return regs->si;
	case 2: return regs->dx;
	case 3: return regs->r10;
	case 4: return regs->r8;
	}
	return regs->r9;
}

static __always_inline void describe(struct task_struct *task, u32 fd, struct what *what)
{
	struct files_struct *files = BPF_CORE_READ((struct task_struct___trace *)task, files);
	struct fdtable *table = BPF_CORE_READ(files, fdt);
	if (!table || fd >= BPF_CORE_READ(table, max_fds))
		return;
	struct file **slot = BPF_CORE_READ(table, fd) + fd;
	struct file *file = 0;
	if (bpf_probe_read_kernel(&file, sizeof(file), slot) || !file)
		return;
	what->mode = BPF_CORE_READ(file, f_inode, i_mode);
	if ((what->mode & S_IFMT) != S_IFSOCK) {
		const unsigned char *name = BPF_CORE_READ(file, f_path.dentry, d_name.name);
		bpf_probe_read_kernel_str(what->name, sizeof(what->name), name);
		return;
	}
	struct socket *socket = BPF_CORE_READ(file, private_data);
	struct sock *sk = BPF_CORE_READ(socket, sk);
	if (!sk)
		return;
	what->family = BPF_CORE_READ(sk, __sk_common.skc_family);
	what->protocol = BPF_CORE_READ(sk, sk_protocol);
	what->type = BPF_CORE_READ(sk, sk_type);
	if (what->family == AF_INET) {
		BPF_CORE_READ_INTO((u32 *)what->local, sk, __sk_common.skc_rcv_saddr);
		BPF_CORE_READ_INTO((u32 *)what->peer, sk, __sk_common.skc_daddr);
	} else if (what->family == AF_INET6) {
		BPF_CORE_READ_INTO((struct in6_addr *)what->local, sk, __sk_common.skc_v6_rcv_saddr);
		BPF_CORE_READ_INTO((struct in6_addr *)what->peer, sk, __sk_common.skc_v6_daddr);
	} else {
		return;
	}
	what->local_port = BPF_CORE_READ(sk, __sk_common.skc_num);
	what->peer_port = __builtin_bswap16(BPF_CORE_READ(sk, __sk_common.skc_dport));
}

/* The limit of a wait in nanoseconds, which the kernel overwrites later with what was left of it. */
static __always_inline s64 limit_of(struct pt_regs *regs, long nr, struct how *how)
{
	s64 time[2];
	if (how->limit == NO_LIMIT)
		return UNKNOWN;
	if (how->limit == MILLISECONDS) {
		s32 ms = argument(regs, how->limit_at);
		return ms < 0 ? UNLIMITED : (s64)ms * 1000000;
	}
	if (how->limit == FUTEX) {
		/* FUTEX_WAIT, FUTEX_LOCK_PI, FUTEX_WAIT_BITSET: others use the argument otherwise. */
		u32 operation = regs->si & 127;
		if (operation != 0 && operation != 6 && operation != 9)
			return UNKNOWN;
		/* An instant, and not a length. */
		if (operation != 0 && regs->r10)
			return UNKNOWN;
	}
	u64 at = argument(regs, how->limit_at);
	if (!at)
		return UNLIMITED;
	if (bpf_probe_read_user(time, sizeof(time), (void *)at) || time[0] < 0 || time[0] > 1000000000)
		return UNKNOWN;
	s64 ns = time[0] * 1000000000 + time[1] * (how->limit == TIMEVAL ? 1000 : 1);
	if (nr != NR_clock_nanosleep || !(regs->si & TIMER_ABSTIME))
		return ns;
	/* An instant: a length from now on, where it is of the clock that can be read here. */
	s64 left = ns - (s64)bpf_ktime_get_ns();
	return regs->di != CLOCK_MONOTONIC ? UNKNOWN : left > 0 ? left : 0;
}

/* How long a call took that nobody asked for: a wait that ended at its own limit did what it was for, unless it was
 * late. */
static __always_inline u64 unasked(u64 nr, s64 result, u64 ns, s64 limit_ns)
{
	bool sleeps = nr == NR_nanosleep || nr == NR_clock_nanosleep;
	if (nr == NR_futex ? result != -ETIMEDOUT : result != 0)
		return ns;
	if (limit_ns >= 0)
		return ns > limit_ns ? ns - limit_ns : 0;
	return sleeps && limit_ns == UNKNOWN ? 0 : ns;
}

OWN int count(u64 nr, u64 error, u64 ns)
{
	struct count_key key = {.nr = nr, .error = error};
	struct count *known = bpf_map_lookup_elem(&counts, &key);
	if (!known) {
		struct count fresh = {};
		bpf_map_update_elem(&counts, &key, &fresh, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&counts, &key);
		if (!known) {
			lost_entry();
			return 0;
		}
	}
	__sync_fetch_and_add(&known->calls, 1);
	__sync_fetch_and_add(&known->ns, ns);
	if (ns > known->longest_ns)
		known->longest_ns = ns;
	return 0;
}

/* Whether one more record may be sent in this tenth of a second. A fifth is kept for the notable ones. */
static __always_inline bool may_send(u64 now, bool notable, struct settings *settings)
{
	u32 zero = 0;
	struct budget *budget = bpf_map_lookup_elem(&budget_map, &zero);
	if (!budget)
		return false;
	u64 tenth = now / 100000000;
	if (budget->tenth != tenth) {
		budget->tenth = tenth;
		budget->sent = 0;
	}
	u64 most = notable ? settings->tenth : settings->tenth * 4 / 5;
	return __sync_fetch_and_add(&budget->sent, 1) < most;
}

static __always_inline u32 copy(struct pt_regs *regs, struct how *how, bool failed, u8 *data)
{
	u64 from = argument(regs, how->at);
	u64 next = argument(regs, how->at + 1);
	u32 length = 0;
	if (!from)
		return 0;
	switch (how->data) {
	case PATH: {
		s64 read = bpf_probe_read_user_str(data, DATA, (void *)from);
		return read > 0 ? read : 0;
	}
	case ADDRESS:
		length = next;
		break;
	case ADDRESS_OUT:
		/* Where the call failed, what lies there is not of it. */
		if (failed || !next || bpf_probe_read_user(&length, sizeof(length), (void *)next))
			return 0;
		break;
	case POLLED:
		length = next > DATA / 8 ? DATA : next * 8;
		break;
	case BYTES:
		length = how->size;
		break;
	case OPTION: {
		/* SOL_SOCKET and IPPROTO_TCP: numbers and times. What is longer may be a key. */
		u32 level = regs->si;
		u32 name = regs->dx;
		bool is_time = level == 1 && (name == 20 || name == 21 || name == 66 || name == 67);
		if (level != 1 && level != 6)
			return 0;
		/* MD5SIG and FASTOPEN_KEY are keys. */
		if (level == 6 && (name == 14 || name == 33 || name == 38))
			return 0;
		length = is_time ? 16 : 4;
		break;
	}
	default:
		return 0;
	}
	if (length > DATA)
		length = DATA;
	asm volatile("" : "+r"(length));
	if (length > DATA || bpf_probe_read_user(data, length, (void *)from))
		return 0;
	return length;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(enter, struct pt_regs *regs, long nr)
{
	u32 tid = watched_tid();
	if (!tid)
		return 0;
	u32 index = nr;
	struct how *how = bpf_map_lookup_elem(&hows, &index);
	if (!how)
		return 0;
	if (is_compat()) {
		struct tally *count = counters();
		if (count)
			count->compat++;
		return 0;
	}
	struct inside *known = bpf_map_lookup_elem(&inside, &tid);
	if (!known) {
		struct inside fresh = {};
		bpf_map_update_elem(&inside, &tid, &fresh, BPF_NOEXIST);
		known = bpf_map_lookup_elem(&inside, &tid);
		if (!known) {
			lost_entry();
			return 0;
		}
	}
	known->nr = nr;
	known->before = 0;
	known->limit_ns = limit_of(regs, nr, how);
	/* Afterwards nobody knows what it was. */
	if (nr == NR_close && how->report) {
		__builtin_memset(&known->closed, 0, sizeof(known->closed));
		describe(bpf_get_current_task_btf(), (u32)regs->di, &known->closed);
	}
	known->since_ns = bpf_ktime_get_ns();
	if ((nr == NR_exit || nr == NR_exit_group) && how->report & ALWAYS) {
		struct event *out = bpf_ringbuf_reserve(&events, sizeof(*out), 0);
		if (!out)
			goto exits;
		__builtin_memset(out, 0, sizeof(*out));
		out->at_ns = out->since_ns = known->since_ns;
		out->tid = tid;
		out->nr = nr;
		out->ended = 1;
		out->limit_ns = UNKNOWN;
		out->args[0] = regs->di;
		bpf_get_current_comm(out->name, sizeof(out->name));
		bpf_ringbuf_submit(out, BPF_RB_NO_WAKEUP);
	}
exits:
	/* It never returns: its entry would be left behind. */
	if (nr == NR_exit)
		bpf_map_delete_elem(&inside, &tid);
	return 0;
}

static __always_inline bool is_failure(u64 nr, s64 result)
{
	s64 error = -result;
	if (error <= 0 || error > MAX_ERRNO)
		return false;
	if (error == EAGAIN || error == EINTR || error == EINPROGRESS)
		return false;
	if (error >= ERESTARTSYS && error <= ERESTART_RESTARTBLOCK)
		return false;
	/* A wait that was to end so; the question whether it is a terminal. */
	return !(nr == NR_futex && error == ETIMEDOUT) && !(nr == NR_ioctl && error == ENOTTY);
}

SEC("tp_btf/sys_exit")
int BPF_PROG(leave, struct pt_regs *regs, long result)
{
	u32 tid = watched_tid();
	if (!tid)
		return 0;
	u32 nr = regs->orig_ax;
	struct how *how = bpf_map_lookup_elem(&hows, &nr);
	u32 zero = 0;
	struct settings *settings = bpf_map_lookup_elem(&settings_map, &zero);
	if (!how || !settings || is_compat())
		return 0;
	u64 now = bpf_ktime_get_ns();
	struct inside *entered = bpf_map_lookup_elem(&inside, &tid);
	u64 since = entered && entered->nr == nr ? entered->since_ns : 0;
	if (entered)
		entered->since_ns = 0;
	bool before = since && entered && entered->before;
	u64 ns = since && now > since ? now - since : 0;
	u64 error = result < 0 && result >= -MAX_ERRNO ? -result : 0;
	count(nr, error, ns);

	bool failed = is_failure(nr, result);
	s64 limit_ns = since && entered && !before ? entered->limit_ns : UNKNOWN;
	bool notable = failed || unasked(nr, result, ns, limit_ns) >= settings->slow_ns;
	bool wanted = how->report & ALWAYS || (notable && how->report & IF_NOTABLE);
	struct what what = {};
	if (!wanted && !(how->report & IF_SOCKET))
		return 0;
	if (nr == NR_close) {
		if (entered)
			what = entered->closed;
	} else if ((nr == NR_accept || nr == NR_accept4) && result >= 0) {
		describe(bpf_get_current_task_btf(), (u32)result, &what);
	} else if (how->takes_fd) {
		describe(bpf_get_current_task_btf(), (u32)regs->di, &what);
	}
	if (!wanted && (what.mode & S_IFMT) != S_IFSOCK)
		return 0;

	struct event *out = 0;
	if (may_send(now, notable, settings))
		out = bpf_ringbuf_reserve(&events, sizeof(*out), 0);
	if (!out) {
		struct tally *count = counters();
		if (count)
			count->dropped++;
		return 0;
	}
	out->at_ns = now;
	out->since_ns = since;
	out->result = result;
	for (u32 i = 0; i < 6; i++)
		out->args[i] = argument(regs, i);
	out->limit_ns = limit_ns;
	out->tid = tid;
	out->nr = nr;
	out->before = before;
	out->ended = 0;
	out->unused = 0;
	out->what = what;
	bpf_get_current_comm(out->name, sizeof(out->name));
	__builtin_memset(out->data, 0, sizeof(out->data));
	out->length = copy(regs, how, result < 0, out->data);
	out->place = notable ? place_of(regs->ip, regs->sp, regs->bp, IN_CALL) : 0;
	bpf_ringbuf_submit(out, BPF_RB_NO_WAKEUP);
	return 0;
}

/* What a thread that is in a call has as its first argument, where that is a descriptor. */
struct seen_fd {
	u32 tid;
	u32 nr;
	struct what what;
};

SEC("iter/task")
int descriptor(struct bpf_iter__task *ctx)
{
	struct task_struct *task = ctx->task;
	if (!task)
		return 0;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	if (!regs)
		return 0;
	struct seen_fd it = {.tid = tid_of((struct task_struct___thread *)task), .nr = BPF_CORE_READ(regs, orig_ax)};
	describe(task, (u32)BPF_CORE_READ(regs, di), &it.what);
	bpf_seq_write(ctx->meta->seq, &it, sizeof(it));
	return 0;
}
