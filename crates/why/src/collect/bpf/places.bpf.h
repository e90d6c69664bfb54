/* Places: user stacks, each named by a hash and sent once.
 *
 * A place is named by a hash of what frame pointers tell. The first time that one is met, the top of the stack itself goes
 * out with the registers, so that user space can unwind it without frame pointers, too. Who includes this has defined
 * `lost_stack`, which counts those that there was no room for. */
#pragma once

#define EEXIST 17
#define PAGE 4096
#define FRAMES 24

struct snapshot {
	u64 place;
	u64 ip, sp, bp;
	u32 unused;
	u32 length;
	u64 frames[FRAMES];
	u8 stack[2 * PAGE];
};

MAP(places, HASH, 4096, u64, u8);
struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 512 * 1024);
} snapshots SEC(".maps");

#define IN_CALL 0
/* Names the current user stack, and sends it where it is new; 0: it has none. In a system call `grain` is IN_CALL, else
 * as many bits of the innermost address are ignored: a loop has many addresses. */
OWN u64 place_of(u64 ip, u64 sp, u64 bp, u32 grain)
{
	u64 frames[FRAMES] = {};
	u8 yes = 1;
	if (bpf_get_task_stack(bpf_get_current_task_btf(), frames, sizeof(frames), BPF_F_USER_STACK) <= 0)
		return 0;
	u64 hash = 0xcbf29ce484222325ULL ^ (frames[0] >> (grain & 31));
	/* The wrapper of a system call mostly has no frame of its own: the word on top of the stack is who called it,
	 * whom frame pointers miss. */
	u64 caller = 0;
	if (grain == IN_CALL)
		bpf_probe_read_user(&caller, sizeof(caller), (void *)sp);
	hash = (hash ^ caller) * 0x9e3779b97f4a7c15ULL;
#pragma unroll
	for (int i = 1; i < FRAMES; i++) {
		hash ^= hash >> 29;
		hash = (hash ^ frames[i]) * 0x9e3779b97f4a7c15ULL;
	}
	hash ^= hash >> 32;
	hash |= 1;
	if (bpf_map_lookup_elem(&places, &hash))
		return hash;
	long full = bpf_map_update_elem(&places, &hash, &yes, BPF_NOEXIST);
	if (full == -EEXIST) /* another thread was faster */
		return hash;
	if (full) {
		lost_stack();
		return 0;
	}
	struct snapshot *out = bpf_ringbuf_reserve(&snapshots, sizeof(*out), 0);
	if (!out) {
		/* No room now: it is sent when it is met again. */
		bpf_map_delete_elem(&places, &hash);
		lost_stack();
		return hash;
	}
	out->place = hash;
	out->ip = ip;
	out->sp = sp;
	out->bp = bp;
	out->unused = 0;
	__builtin_memcpy(out->frames, frames, sizeof(frames));
	/* The top of the stack: the rest of its page, and the page after it. */
	u32 first = PAGE - (sp & (PAGE - 1));
	u32 length = 0;
	if (!bpf_probe_read_user(out->stack, first, (void *)sp)) {
		length = first;
		if (!bpf_probe_read_user(out->stack + first, PAGE, (void *)(sp + first)))
			length += PAGE;
	}
	out->length = length;
	bpf_ringbuf_submit(out, 0);
	return hash;
}
