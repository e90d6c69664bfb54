/* What all programs share: the few kernel types they read, by names that are relocated to the running kernel (CO-RE),
 * and the question whether the current task belongs to the process that is watched.
 *
 * Structs hold only the members that are read. Their order and offsets here mean nothing. */
#pragma once

typedef unsigned char __u8;
typedef unsigned short __u16;
typedef unsigned int __u32;
typedef unsigned long long __u64;
typedef signed char __s8;
typedef short __s16;
typedef int __s32;
typedef long long __s64;
typedef __u16 __be16;
typedef __u32 __be32;
typedef __u16 __sum16;
typedef __u32 __wsum;
typedef __u8 u8;
typedef __u16 u16;
typedef __u32 u32;
typedef __u64 u64;
typedef __s32 s32;
typedef __s64 s64;
typedef _Bool bool;
#define true 1
#define false 0

/* linux/bpf.h, whose other contents would need the kernel's headers. */
enum {
	BPF_MAP_TYPE_HASH = 1,
	BPF_MAP_TYPE_ARRAY = 2,
	BPF_MAP_TYPE_PERCPU_HASH = 5,
	BPF_MAP_TYPE_PERCPU_ARRAY = 6,
	BPF_MAP_TYPE_STACK_TRACE = 7,
	BPF_MAP_TYPE_LRU_HASH = 9,
	BPF_MAP_TYPE_RINGBUF = 27,
};
enum {
	BPF_ANY = 0,
	BPF_NOEXIST = 1,
	BPF_EXIST = 2,
};
#define BPF_F_FAST_STACK_CMP (1ULL << 9)
#define BPF_F_USER_STACK (1ULL << 8)

struct bpf_pidns_info {
	__u32 pid;
	__u32 tgid;
};

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_core_read.h>
#include <bpf/bpf_tracing.h>

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct task_struct {
	int pid;
	int tgid;
};

#pragma clang attribute pop

#define MAP(name_, type_, entries_, key_, value_)                                                                      \
	struct {                                                                                                           \
		__uint(type, BPF_MAP_TYPE_##type_);                                                                            \
		__uint(max_entries, entries_);                                                                                 \
		__type(key, key_);                                                                                             \
		__type(value, value_);                                                                                         \
	} name_ SEC(".maps")

/* Functions that are not static are verified once, for all arguments, and not at each call: loading is ten times faster.
 * They take numbers only. */
#define OWN __attribute__((noinline))

/* Set before loading: whom to watch. In a pid namespace other than the first, numbers are those of that namespace,
 * which is named by the device and inode of its file; otherwise both are 0. */
struct target {
	u64 pidns_dev;
	u64 pidns_ino;
	u32 tgid;
	u32 unused;
};
volatile const struct target target = {};

/* The current thread's number as the watcher knows it, where it is one of the process's; else 0. */
static __always_inline u32 watched_tid(void)
{
	if (target.pidns_ino) {
		struct bpf_pidns_info here = {};
		if (bpf_get_ns_current_pid_tgid(target.pidns_dev, target.pidns_ino, &here, sizeof(here)))
			return 0;
		return here.tgid == target.tgid ? here.pid : 0;
	}
	u64 ids = bpf_get_current_pid_tgid();
	return ids >> 32 == target.tgid ? (u32)ids : 0;
}

/* The kernel lends most of its helpers to programs under the GPL only; this is one of the licences they are under. */
char LICENSE[] SEC("license") = "Dual MIT/GPL";
