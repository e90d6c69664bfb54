//! The guards against old events, one by one: from outside each is covered by the other.

use std::{io::Write as _, os::unix::net::UnixStream};

use super::*;

fn pair() -> (Stream, UnixStream) {
    let (own, peer) = UnixStream::pair().unwrap();
    (Stream::from_unix(own).unwrap(), peer)
}

#[test]
fn what_is_removed_leaves_the_kernels_set_though_a_duplicate_keeps_it_open() {
    let mut poller = Poller::new().unwrap();
    let (stream, mut peer) = pair();
    let _duplicate = stream.as_fd().try_clone_to_owned().unwrap();
    let token = poller.add(stream, Interest::Read).unwrap();
    peer.write_all(b"x").unwrap();
    poller.inbox.take();
    let data: Vec<_> = poller.epoll.wait(Some(Duration::ZERO)).unwrap().iter().map(|ready| ready.data).collect();
    assert_eq!(data, [token.to_u64()]);
    drop(poller.remove(token));
    assert!(poller.epoll.wait(Some(Duration::ZERO)).unwrap().is_empty());
}

#[test]
fn what_is_removed_leaves_nothing_behind() {
    let mut poller = Poller::new().unwrap();
    let (stream, _peer) = pair();
    let (handle, interrupter) = (stream.handle().clone(), stream.interrupter().clone());
    stream.set_deadline(Duration::from_secs(50));
    let token = poller.add(stream, Interest::Both).unwrap();
    poller.wait(&mut Events::new(), Duration::ZERO).unwrap();
    assert!(poller.queue.next().is_some());
    drop(poller.remove(token));
    assert_eq!(poller.queue.next(), None);
    // Nobody who lives on would ring for it.
    assert_eq!(Arc::weak_count(&poller.inbox), 0);
    drop((handle, interrupter));
}

#[test]
fn a_poller_that_is_dropped_leaves_nothing_behind() {
    let mut poller = Poller::new().unwrap();
    let interrupter = Interrupter::new();
    let (own, _peer) = UnixStream::pair().unwrap();
    let stream = crate::direct::Options::new().interrupter(&interrupter).from_unix(own).unwrap();
    poller.add(stream, Interest::Both).unwrap();
    let inbox = Arc::clone(&poller.inbox);
    drop(poller);
    // One interrupter serves many, and lives long.
    assert_eq!(Arc::weak_count(&inbox), 0, "it rings for who is gone");
    drop(interrupter);
}

#[test]
fn an_old_event_an_old_deadline_and_old_mail_are_nobodys() {
    let (mut poller, mut events) = (Poller::new().unwrap(), Events::new());
    let (old, mut old_peer) = pair();
    old_peer.write_all(b"x").unwrap();
    let still_watched = old.as_fd().try_clone_to_owned().unwrap();
    let old_token = poller.add(old, Interest::Read).unwrap();
    drop(poller.remove(old_token));
    let (new, _new_peer) = pair();
    let new_token = poller.add(new, Interest::Read).unwrap();
    // The same place, and all that could be left of who had it before.
    assert_eq!(old_token.to_u64() & u64::from(u32::MAX), new_token.to_u64() & u64::from(u32::MAX));
    poller.epoll.add(&still_watched, old_token.to_u64(), Interest::Read).unwrap();
    poller.queue.arm(&mut Armed::default(), old_token, clock::unpaused());
    poller.inbox.post(|mail| mail.changed.push(old_token));
    poller.wait(&mut events, Duration::ZERO).unwrap();
    assert!(events.is_empty(), "{events:?}");
}

#[test]
fn a_deadline_that_only_moves_later_costs_nothing() {
    let mut poller = Poller::new().unwrap();
    let mut events = Events::new();
    let (stream, _peer) = pair();
    let handle = stream.handle().clone();
    let first = clock::unpaused() + Duration::from_secs(50);
    handle.set_read_deadline(first);
    poller.add(stream, Interest::Read).unwrap();
    poller.wait(&mut events, Duration::ZERO).unwrap();
    assert_eq!(poller.queue.next(), Some(first));
    for later in 1..100 {
        handle.set_read_deadline(first + Duration::from_secs(later));
        poller.wait(&mut events, Duration::ZERO).unwrap();
        assert_eq!(poller.queue.next(), Some(first));
    }
    // Handed out too early, it is put back, and nobody hears of it.
    poller.expire(first, &mut events);
    assert!(events.is_empty());
    assert_eq!(poller.queue.next(), Some(first + Duration::from_secs(99)));
}

#[test]
fn mail_is_posted_once_and_rings_only_who_sleeps() {
    let mut poller = Poller::new().unwrap();
    let (stream, _peer) = pair();
    let handle = stream.handle().clone();
    let token = poller.add(stream, Interest::Read).unwrap();
    for _ in 0..3 {
        handle.set_read_deadline(None);
    }
    assert_eq!(poller.inbox.lock().changed, [token]);
    assert!(poller.epoll.wait(Some(Duration::ZERO)).unwrap().is_empty(), "nobody slept");
    assert!(!poller.inbox.fall_asleep(), "there is mail");
    poller.inbox.take();
    poller.look_at(token, &mut Events::new());
    assert!(poller.inbox.fall_asleep());
    handle.set_read_deadline(None);
    assert_eq!(
        poller.epoll.wait(Some(Duration::ZERO)).unwrap().iter().map(|ready| ready.data).collect::<Vec<_>>(),
        [ALARM]
    );
}
