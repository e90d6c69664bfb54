/* How long the threads of the process are off the processors, and where.
 *
 * `switched` sees every switch of the machine and counts those of the process by place: what it costs is one look into a
 * map for each switch of others, and some 200 ns for each of its own. A stack is walked only where the thread was
 * switched off at another place than the last time. Threads that slept before the watch began are entered into `asleep`
 * by user space, which has unwound them from their registers. */
#include "overdue.bpf.h"
#include "tasks.bpf.h"

#define TASK_DEAD 0x80

/* What was lost because a table was full, and all switches of the process. */
struct tally {
	u64 lost_entries;
	u64 lost_stacks;
	u64 switches;
};
/* A thread that is off the processor. */
struct asleep {
	u64 since_ns;
	u64 place;
	s32 call;
	u32 unused;
};
/* Where a thread was switched off the last time: the same registers, who called, and the caller's caller. */
struct last {
	u64 ip, sp, bp;
	u64 caller, outer;
	u64 place;
};
struct off_key {
	u64 place;
	u32 tid;
	s32 call;
};
struct off {
	u64 off_ns;
	u64 times;
	u64 longest_ns;
};
/* Instead of the number of a system call: it is in none (a page fault, say); it is ready and has no processor. */
#define NO_CALL -1
#define READY -2

MAP(tally, PERCPU_ARRAY, 1, u32, struct tally);
/* Keyed by the thread as the watcher knows it. */
MAP(asleep, HASH, 8192, u32, struct asleep);
MAP(lasts, LRU_HASH, 4096, u32, struct last);
MAP(off, HASH, 16384, struct off_key, struct off);

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

/* The place of the current thread; the last one where nothing has changed. */
static __always_inline u64 current_place(struct pt_regs *regs, u32 tid)
{
	struct last now = {.ip = regs->ip, .sp = regs->sp, .bp = regs->bp};
	bpf_probe_read_user(&now.caller, sizeof(now.caller), (void *)now.sp);
	bpf_probe_read_user(&now.outer, sizeof(now.outer), (void *)(now.bp + 8));
	struct last *last = bpf_map_lookup_elem(&lasts, &tid);
	if (last && last->ip == now.ip && last->sp == now.sp && last->bp == now.bp && last->caller == now.caller &&
		last->outer == now.outer && last->place)
		return last->place;
	now.place = place_of(now.ip, now.sp, now.bp, IN_CALL);
	bpf_map_update_elem(&lasts, &tid, &now, BPF_ANY);
	return now.place;
}

static __always_inline void switched_off(bool preempted, struct task_struct *task)
{
	u32 tid = watched_tid();
	if (!tid)
		return;
	struct tally *count = counters();
	if (count)
		count->switches++;
	u32 state = BPF_CORE_READ((struct task_struct___thread *)task, __state);
	if (state & TASK_DEAD) {
		bpf_map_delete_elem(&asleep, &tid);
		return;
	}
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(bpf_get_current_task_btf());
	if (!regs)
		return;
	struct asleep it = {.since_ns = bpf_ktime_get_ns(), .place = current_place(regs, tid)};
	s64 call = regs->orig_ax;
	it.call = preempted || !state ? READY : call >= 0 && call < 1024 ? call : NO_CALL;
	if (bpf_map_update_elem(&asleep, &tid, &it, BPF_ANY))
		lost_entry();
}

static __always_inline void switched_on(struct task_struct *task)
{
	if (!target.pidns_ino && BPF_CORE_READ(task, tgid) != target.tgid)
		return;
	u32 tid = tid_of((struct task_struct___thread *)task);
	struct asleep *it = bpf_map_lookup_elem(&asleep, &tid);
	if (!it)
		return;
	struct off_key key = {.place = it->place, .tid = tid, .call = it->call};
	u64 now = bpf_ktime_get_ns();
	u64 off_ns = now > it->since_ns ? now - it->since_ns : 0;
	bpf_map_delete_elem(&asleep, &tid);
	struct off *known = bpf_map_lookup_elem(&off, &key);
	if (known) {
		/* Only this thread's switches come here. */
		known->off_ns += off_ns;
		known->times++;
		if (off_ns > known->longest_ns)
			known->longest_ns = off_ns;
		return;
	}
	struct off fresh = {.off_ns = off_ns, .times = 1, .longest_ns = off_ns};
	if (bpf_map_update_elem(&off, &key, &fresh, BPF_NOEXIST))
		lost_entry();
}

SEC("tp_btf/sched_switch")
int BPF_PROG(switched, bool preempted, struct task_struct *prev, struct task_struct *next)
{
	switched_off(preempted, prev);
	switched_on(next);
	return 0;
}
