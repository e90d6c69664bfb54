/* Calls of getaddrinfo() in the C library: which name, how long, how it ended. Each costs the process two traps of some
 * microseconds, beside a lookup that takes a hundred times as long at least; so this is for when somebody asks. */
#include "overdue.bpf.h"

/* The registers that a probe is given (struct pt_regs of x86-64), as far as they are read. */
struct registers {
	u64 before_bp[4];
	u64 bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di, orig_ax, ip, cs, flags, sp;
};

#define NAME 256
/* The longest name is 253 bytes (RFC 1035). */
struct asked {
	u64 at_ns;
	u32 tid;
	s32 result;
	u64 took_ns;	/* 0: it goes on */
	u64 stack;	/* where the call's return address lies */
	char name[NAME];
};

/* AI_NUMERICHOST of <netdb.h>, in the flags with which the hints begin. */
#define NUMERIC 4

/* By thread: one lookup each. Of one within another, such as a resolver's own, the outer one counts. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1024);
	__type(key, u32);
	__type(value, struct asked);
} asking SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 128 * 1024);
} answers SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} lost SEC(".maps");

static __always_inline void lose(void)
{
	u32 zero = 0;
	u64 *count = bpf_map_lookup_elem(&lost, &zero);

	if (count)
		__sync_fetch_and_add(count, 1);
}

/* What a new entry begins as: it is too large for the stack, and filled where it lies. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, struct asked);
} empty SEC(".maps");

SEC("uprobe")
int ask(struct registers *ctx)
{
	u32 tid = watched_tid(), zero = 0;
	struct asked *it = bpf_map_lookup_elem(&empty, &zero), *before;
	u64 name = ctx->di;

	u32 hints = 0;

	/* Without a name it asks for the own addresses, and nobody else; an address in numbers it reads itself. */
	if (!tid || !it || !name)
		return 0;
	if (ctx->dx && !bpf_probe_read_user(&hints, sizeof(hints), (void *)ctx->dx) && hints & NUMERIC)
		return 0;
	/* Stacks grow down: what began below is still under way, and what began here or above was left without a return. */
	before = bpf_map_lookup_elem(&asking, &tid);
	if (before && before->stack > ctx->sp)
		return 0;
	if (bpf_map_update_elem(&asking, &tid, it, BPF_ANY)) {
		lose();
		return 0;
	}
	it = bpf_map_lookup_elem(&asking, &tid);
	if (!it)
		return 0;
	it->tid = tid;
	it->stack = ctx->sp;
	bpf_probe_read_user_str(it->name, sizeof(it->name), (void *)name);
	it->at_ns = bpf_ktime_get_ns();
	return 0;
}

SEC("uretprobe")
int answered(struct registers *ctx)
{
	u32 tid = watched_tid();
	struct asked *it, *out;

	if (!tid)
		return 0;
	it = bpf_map_lookup_elem(&asking, &tid);
	/* The return has taken its address from the stack. */
	if (!it || it->stack + 8 != ctx->sp)
		return 0;
	it->result = (s32)ctx->ax;
	it->took_ns = bpf_ktime_get_ns() - it->at_ns;
	out = bpf_ringbuf_reserve(&answers, sizeof(*out), 0);
	if (out) {
		__builtin_memcpy(out, it, sizeof(*it));
		bpf_ringbuf_submit(out, 0);
	} else {
		lose();
	}
	bpf_map_delete_elem(&asking, &tid);
	return 0;
}
