/* Threads: their registers at the entry to the kernel, their numbers as the watcher knows them, and an iterator that
 * gives one record for each thread of the process. */
#pragma once
#include "overdue.bpf.h"

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct pt_regs {
	unsigned long bp, r10, r9, r8, dx, si, di, orig_ax, ip, sp;
};
struct ns_common {
	unsigned int inum;
};
struct pid_namespace {
	struct ns_common ns;
};
struct upid {
	int nr;
	struct pid_namespace *ns;
};
struct pid {
	unsigned int level;
	struct upid numbers[];
};
struct task_struct___thread {
	unsigned int __state;
	unsigned long nvcsw, nivcsw;
	struct pid *thread_pid;
	char comm[16];
};
struct seq_file;
struct bpf_iter_meta {
	struct seq_file *seq;
};
struct bpf_iter__task {
	struct bpf_iter_meta *meta;
	struct task_struct *task;
};

#pragma clang attribute pop

struct seen_thread {
	u32 tid;
	u32 state;
	u64 ip, sp, bp;
	u64 call;
	u64 args[6];
	u64 voluntary, involuntary;
	char name[16];
};

/* The thread's number in the watcher's namespace. */
static __always_inline u32 tid_of(struct task_struct___thread *task)
{
	if (!target.pidns_ino)
		return BPF_CORE_READ((struct task_struct *)task, pid);
	struct pid *pid = BPF_CORE_READ(task, thread_pid);
	u32 level = BPF_CORE_READ(pid, level);
	for (u32 i = 0; i < 32; i++) {
		struct upid number;
		if (i > level)
			break;
		if (bpf_core_read(&number, sizeof(number), &pid->numbers[i]))
			break;
		if (BPF_CORE_READ(number.ns, ns.inum) == target.pidns_ino)
			return number.nr;
	}
	return 0;
}

SEC("iter/task")
int thread(struct bpf_iter__task *ctx)
{
	struct seq_file *out = ctx->meta->seq;
	struct task_struct *task = ctx->task;
	if (!task)
		return 0;
	struct task_struct___thread *more = (void *)task;
	struct pt_regs *regs = (struct pt_regs *)bpf_task_pt_regs(task);
	if (!regs)
		return 0;
	struct seen_thread it = {
		.tid = tid_of(more),
		.state = BPF_CORE_READ(more, __state),
		.ip = BPF_CORE_READ(regs, ip),
		.sp = BPF_CORE_READ(regs, sp),
		.bp = BPF_CORE_READ(regs, bp),
		.call = BPF_CORE_READ(regs, orig_ax),
		.args = {BPF_CORE_READ(regs, di), BPF_CORE_READ(regs, si), BPF_CORE_READ(regs, dx), BPF_CORE_READ(regs, r10),
				 BPF_CORE_READ(regs, r8), BPF_CORE_READ(regs, r9)},
		.voluntary = BPF_CORE_READ(more, nvcsw),
		.involuntary = BPF_CORE_READ(more, nivcsw),
	};
	BPF_CORE_READ_INTO(&it.name, more, comm);
	bpf_seq_write(out, &it, sizeof(it));
	return 0;
}
