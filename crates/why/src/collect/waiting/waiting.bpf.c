/* Placeholder while the pipeline is tried. */
#include "overdue.bpf.h"
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, u32);
	__type(value, u64);
} counts SEC(".maps");
SEC("tp_btf/sys_enter")
int BPF_PROG(enter, void *regs, long number)
{
	u32 zero = 0;
	u64 *count = watched_tid() ? bpf_map_lookup_elem(&counts, &zero) : 0;
	if (count)
		__sync_fetch_and_add(count, 1);
	return 0;
}

