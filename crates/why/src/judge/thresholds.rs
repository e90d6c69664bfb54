//! What counts as long, many or full, where it is more than one rule's own matter.
//!
//! | what | value | why |
//! |---|---|---|
//! | [`SETTLED_US`] | 1 s | a state shorter than this may be on its way to the next |
//! | [`PILE`] | 8 | connections in the same dead end before it is called a pile |
//! | [`SPIN_PER_SECOND`] | 1,000 | polls a second of a thread that does nothing else |
//! | [`SHORT_SPIN_PER_SECOND`] | 200 | the same with a limit of about 1 ms, which cannot be faster |
//! | [`TURN_US`] | 100 us, 400 us where it sleeps in between | processor time for each empty poll from which on a loop computes; one that spins needs far less |
//! | [`SLICE_US`] | 50 us, 100 us | the same of one that sleeps: from the first on it may do tiny work, from the second on it is likely, but for what is interpreted, whose turn costs as much |
//! | [`ALWAYS`] | 0.9 | the share of polls, of threads, of looks that is called "nearly all" |
//! | [`BETWEEN`] | 0.1 | other calls for each poll: a loop that does less between its polls does nothing |
//! | [`NEAR_LIMIT`] | half of the limit, or the limit within 10 minutes | descriptors that grow and end there; below half, sockets in use are a remark |
//! | [`FEW_FDS`] | 0.05, 256 | the share of the limit below which a young process may as well open what it needs; more connections to one peer that lie idle are no pool that it fills |
//! | [`FAR`] | 16 more, the limit within a day | the same, as a remark, where it is farther away |
//! | [`STORM_PER_SECOND`] | 5 | failed handshakes a second |
//! | [`CHURN_PER_SECOND`] | 50 | connections a second that end without work |
//! | [`CHECKERS`] | 4 | addresses from which checks of health come that end by a reset: load balancers are few |
//! | [`THROTTLED`] | 0.1 | the share of periods in which a quota was used up |
//! | [`STARVED`] | 0.3 | the share of its waiting and running that a process waited for a processor |
//! | [`STARVED_EACH_US`] | 50 ms | a wait for a processor that is felt; shorter ones are an advisory |
//! | [`BUSY`] | 0.8 | processors in use at which a process is called busy |
//! | [`IDLE_MS`] | 10 s | silence of a connection that nothing will ever close |
//! | [`GIVEN_UP_US`] | 250 ms | a caller that closes sooner after its call began changed its mind, or asked elsewhere at the same time |
//! | [`TRICKLE_PER_SECOND`] | 1,000 | bytes a second of a body below which it is no transfer: no link is so slow |
//! | [`USUAL_ANSWERS`] | 3, each within a tenth | answers on the same connection that make a longer wait one that is not meant |
//! | [`FELL_SILENT`] | 5, 50 times | so many answers on a connection, and all of them so much shorter than the wait for the next, make it one that is not meant, where all callers wait at the same time |
//! | [`MOST`] | half of the watch, 2 s at least | a caller that has waited for so long, with nothing that explains it, is told of |
//! | [`CROWD`] | 3 | requests that wait for the same peer at once, or clients that do not read: no single case |
//! | [`TASKS`] | 64 | tasks at the same place before they are called a crowd |
//! | [`WORTH`] | 0.1 | the share of its calls that must fail before single failures are more than noise |
//! | [`TICK_MS`] | 10 ms | the kernel's times are of its ticks, at most so long |
//! | [`HANDED_ON_MS`] | 100 ms | within so long a request is handed on where nothing else is done for it first |
//! | [`TURN_SLEEPS`] | 0.25 | the share of its polls in which a loop sleeps that polls up to three times a turn, for what a timer leads to |
//! | [`POLLING`] | 0.1, 0.025 | the share of its time that a loop without work spends in its polls with limit 0: from the first on it does nothing else, from the second on little else (an interpreter needs ten times as long for its turn as for the poll, and so does work that is as small); below, it may well compute, which nobody can tell from outside |
//! | [`SMALL_WORK`] | 0.001 | calls that do work for each poll, from which on a loop that spends little of its time in its polls does some |
//! | [`MOSTLY`] | 0.8 | the share of connections that must have ended without work |
//! | [`QUEUE_FULL`] | 16 KiB | unread bytes from which on a receive queue is called full |
//! | [`RWND_LIMITED`] | 0.7, below 10 MB/s | the share of its time in which a stream waits for room at its reader, from which on that one is slow; who takes more a second is quick, however much there is for him |
//! | [`ACK_ALONE_MS`] | 20 to 500 ms | after so long a peer with nothing to send acknowledges what it received: the kernels' 40 to 200 ms, and the way; the answer to a keepalive probe comes after a second at least |
//! | [`PROBES`] | 2 | keepalive probes without an answer, after which it is no single loss |
//! | [`REQUEST_MAX`] | 64 KiB | who has sent so much and never got a byte sends logs or metrics, and waits for no answer |
//! | [`NAMES`] | 4 | fewer different names may be those of a program that has a few peers |
//! | [`TASKS_GROWN`] | 0.1 | growth below this share of what was there at first is the ordinary coming and going |
//! | [`HEAP_GROWN`] | 0.2, 1 MiB at least | growth of the heap that counts as growing with the tasks |
//! | [`PILE_OF_THREADS`] | 16 | new threads of one window that are no pool being filled |
//! | [`BYTES_OF_A_THREAD`] | 56 KiB | what a thread that waits costs by itself: the pages of its stack that it touched |
//! | [`YOUNG`] | 3 windows, 30 s at most | a process that has been up for less may not have come to the end of what it began |
//! | [`PERIODS`] | 10 | fewer periods of a quota say nothing |
//! | [`LOOP_BLOCKED`] | 0.3 | the share of the looks from which on an event loop that sits in another call is blocked by it |
//! | [`LOOP_TURN_US`] | 100 ms | a loop that computes for less in each turn, on the average, hears of its callers |
//! | [`LOOP_AWAY_US`] | 50 ms | a shorter stay in a call that blocks is hardly felt by those who wait for the loop |
//! | [`LOOP_BEAT_US`] | 100 ms | the same of a loop that sleeps between its turns, as a game does: with ten of them a second it hears of its callers |
//! | [`LOOKUP_US`] | 200 ms | a name server that needs longer for each answer is slow |
//! | [`FDS_GROWN`] | 4 | fewer descriptors more in a whole window are nothing that grows |

use std::{ops::Range, time::Duration};

/// See the table.
pub const SETTLED_US: u64 = 1_000_000;
/// See the table.
pub const PILE: usize = 8;
/// See the table.
pub const SPIN_PER_SECOND: f64 = 1_000.0;
/// See the table.
pub const SHORT_SPIN_PER_SECOND: f64 = 200.0;
/// See the table.
pub const TURN_US: (u64, u64) = (100, 400);
/// See the table.
pub const SLICE_US: (u64, u64) = (50, 100);
/// See the table.
pub const ALWAYS: f64 = 0.9;
/// See the table.
pub const BETWEEN: f64 = 0.1;
/// See the table.
pub const NEAR_LIMIT: (f64, Duration) = (0.5, Duration::from_secs(600));
/// See the table.
pub const FEW_FDS: (f64, u64) = (0.05, 256);
/// See the table.
pub const FAR: (u64, Duration) = (16, Duration::from_secs(86_400));
/// See the table.
pub const STORM_PER_SECOND: f64 = 5.0;
/// See the table.
pub const CHURN_PER_SECOND: f64 = 50.0;
/// See the table.
pub const CHECKERS: usize = 4;
/// See the table.
pub const THROTTLED: f64 = 0.1;
/// See the table.
pub const STARVED: f64 = 0.3;
/// See the table.
pub const STARVED_EACH_US: u64 = 50_000;
/// See the table.
pub const BUSY: f64 = 0.8;
/// See the table.
pub const IDLE_MS: u32 = 10_000;
/// See the table.
pub const GIVEN_UP_US: u64 = 250_000;
/// See the table.
pub const TRICKLE_PER_SECOND: u64 = 1_000;
/// See the table.
pub const USUAL_ANSWERS: u64 = 3;
/// See the table.
pub const FELL_SILENT: (u32, u64) = (5, 50);
/// See the table.
pub const MOST: (f64, u64) = (0.5, 2_000_000);
/// See the table.
pub const CROWD: u64 = 3;
/// See the table.
pub const TASKS: u64 = 64;
/// See the table.
pub const WORTH: f64 = 0.1;
/// See the table.
pub const TICK_MS: u32 = 10;
/// See the table.
pub const HANDED_ON_MS: u32 = 100;
/// See the table.
pub const TURN_SLEEPS: f64 = 0.25;
/// See the table.
pub const POLLING: (f64, f64) = (0.1, 0.025);
/// See the table.
pub const SMALL_WORK: f64 = 0.001;
/// See the table.
pub const MOSTLY: f64 = 0.8;
/// See the table.
pub const QUEUE_FULL: u32 = 16 * 1024;
/// See the table.
pub const RWND_LIMITED: (f64, u64) = (0.7, 10_000_000);
/// See the table.
pub const ACK_ALONE_MS: Range<u32> = 20..500;
/// See the table.
pub const PROBES: u8 = 2;
/// See the table.
pub const REQUEST_MAX: u64 = 64 * 1024;
/// See the table.
pub const NAMES: usize = 4;
/// See the table.
pub const TASKS_GROWN: f64 = 0.1;
/// See the table.
pub const HEAP_GROWN: (f64, u64) = (0.2, 1 << 20);
/// See the table.
pub const PILE_OF_THREADS: u64 = 16;
/// See the table.
pub const BYTES_OF_A_THREAD: u64 = 56 * 1024;
/// See the table.
pub const YOUNG: (u64, u64) = (3, 30_000_000);
/// See the table.
pub const PERIODS: u64 = 10;
/// See the table.
pub const LOOP_BLOCKED: f64 = 0.3;
/// See the table.
pub const LOOP_TURN_US: u64 = 100_000;
/// See the table.
pub const LOOP_AWAY_US: f64 = 50_000.0;
/// See the table.
pub const LOOP_BEAT_US: f64 = LOOP_TURN_US as f64;
/// See the table.
pub const LOOKUP_US: u64 = 200_000;
/// See the table.
pub const FDS_GROWN: u64 = 4;
