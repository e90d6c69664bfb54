/* Calls of getaddrinfo() in the C library: which name, how long, how it ended. Each costs the process two traps of some
 * microseconds, beside a lookup that takes a hundred times as long at least; so this is for when somebody asks. */
#include "overdue.bpf.h"

/* The registers that a probe is given (struct pt_regs of x86-64), as far as they are read. */
struct registers {
	u64 before_bp[4];
	u64 bp, bx, r11, r10, r9, r8, ax, cx, dx, si, di;
};

#define NAME 256
/* The longest name is 253 bytes (RFC 1035). */
struct asked {
	u64 at_ns;
	u32 tid;
	s32 result;
	u64 took_ns;	/* 0: it goes on */
	char name[NAME];
};

/* By thread: one lookup each. */
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
	struct asked *it = bpf_map_lookup_elem(&empty, &zero);
	u64 name = ctx->di;

	/* Without a name it asks for the own addresses, and nobody else. */
	if (!tid || !it || !name)
		return 0;
	if (bpf_map_update_elem(&asking, &tid, it, BPF_ANY)) {
		lose();
		return 0;
	}
	it = bpf_map_lookup_elem(&asking, &tid);
	if (!it)
		return 0;
	it->tid = tid;
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
	if (!it)
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
