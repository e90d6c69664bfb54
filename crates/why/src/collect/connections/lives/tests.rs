use super::*;

fn told(way: Way, at: u64, bytes: &[u8]) -> Piece<'_> {
    Piece { at, cookie: 7, offset: 0, tid: 1, flags: OPENED, remote: None, way, bytes }
}

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: x\r\n\r\n";
const ANSWER: &[u8] = b"HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello";

fn exchange(pieces: &[Piece<'_>]) -> Exchange {
    let mut heads = Heads::default();
    pieces.iter().for_each(|piece| heads.take(piece));
    *heads.http.unwrap()
}

#[test]
fn a_call_that_was_late_is_remembered_with_its_own_deadline() {
    let asks = |path: &str, ms: u32| {
        format!("GET {path} HTTP/1.1\r\nhost: x\r\nx-envoy-expected-rq-timeout-ms: {ms}\r\n\r\n").into_bytes()
    };
    let late = |first_ms: u32| {
        let (slow, quick) = (asks("/slow", first_ms), asks("/quick", 500));
        let s = 1_000_000_000;
        let read = |at, bytes| told(Way::Read, at, bytes);
        let write = |at| told(Way::Write, at, ANSWER);
        let told = |pieces: [Piece<'_>; 4]| {
            let seen = exchange(&pieces);
            assert_eq!((seen.request.line.as_str(), seen.answered), ("GET /quick", Some(3 * s + 2)));
            seen.late.map(|late| (late.request, late.deadline.1, late.ran_us))
        };
        let in_order = told([read(s, &slow), write(3 * s), read(3 * s + 1, &quick), write(3 * s + 2)]);
        // One thread writes, and another reads on: the event of the write may be the later one.
        let turned = told([read(s, &slow), read(3 * s + 1, &quick), write(3 * s), write(3 * s + 2)]);
        assert_eq!(in_order, turned);
        in_order
    };
    // Two seconds are in time for the one that allowed fifteen, whatever the next allows.
    assert_eq!(late(15_000), None);
    assert_eq!(late(400), Some(("GET /slow".to_owned(), 400_000, 2_000_000)));
}

#[test]
fn answers_that_are_errors_are_counted_with_their_times() {
    let s = 1_000_000_000;
    let error = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let read = |at| told(Way::Read, at, REQUEST);
    let write = |at, bytes| told(Way::Write, at, bytes);
    let seen = exchange(&[
        read(s),
        write(3 * s, error),
        read(4 * s),
        write(5 * s, ANSWER),
        read(6 * s),
        write(7 * s, error),
        read(8 * s),
    ]);
    let failed = FailedCalls { status: 503, number: 2, total_us: 3_000_000, longest_us: 2_000_000 };
    assert_eq!((seen.status, seen.failed()), (None, Some((failed, 7 * s))));
    assert_eq!(exchange(&[read(s), write(2 * s, ANSWER)]).failed(), None);
}

/// The life of a connection that an hour of them consists of: a request, and its end.
fn live(lives: &mut Lives, cookie: u64, at: u64) {
    lives.take(Event::Piece(Piece { cookie, ..told(Way::Write, at, REQUEST) }));
    let read = RawWay { gaps: 10, longest_gap: 10, longest_gap_from: at, turns: 1, ..RawWay::default() };
    let (opened, ended) = (at, at + 1_000);
    lives.take(Event::Ended(Box::new(RawConnection {
        cookie,
        opened,
        established: opened,
        ended,
        read,
        flags: OPENED | ENDED,
        ..RawConnection::default()
    })));
}

#[test]
fn hours_of_short_connections_need_no_more_room_than_a_window() {
    const WINDOW: u64 = 5_000_000_000;
    let mut lives = Lives::default();
    let mut cookie = 0;
    let mut left_out = 0;
    for window in 0..15 {
        for _ in 0..3_000 {
            cookie += 1;
            live(&mut lives, cookie, window * WINDOW + cookie % WINDOW);
            // And one whose end is never told.
            let lost = Piece { cookie: u64::MAX - cookie, ..told(Way::Write, window * WINDOW, REQUEST) };
            lives.take(Event::Piece(lost));
        }
        // What is told of from now on began with the window before this one.
        let begin = window * WINDOW;
        lives.turn(&[], begin);
        assert!(lives.ended.len() < ENDED_MAX && lives.heads.len() <= FOLLOWED_MAX, "{}", lives.heads.len());
        let seen = lives.observed(&[], begin + WINDOW, Epoch(begin), |_| false, true);
        assert_eq!(seen.connections.len(), KEPT);
        let in_window = |moment: Option<Moment>| matches!(moment, Some(Moment::At(us)) if us <= WINDOW / 1_000);
        assert!(seen.connections.iter().all(|it| in_window(it.opened) && in_window(it.closed)));
        assert!(lives.left_out > left_out, "what there was no room for is counted");
        left_out = lives.left_out;
    }
}

#[test]
fn a_connection_that_goes_on_is_told_from_before_the_window() {
    let mut lives = Lives::default();
    lives.take(Event::Piece(told(Way::Write, 2_000_000, REQUEST)));
    let mut raw = RawConnection {
        cookie: 7,
        opened: 1_000_000,
        established: 1_000_000,
        flags: OPENED,
        read: RawWay {
            last: 9_000_000,
            gaps: 7_000_000,
            longest_gap: 6_000_000,
            longest_gap_from: 2_000_000,
            turns: 2,
            bytes: 5,
            ..RawWay::default()
        },
        ..RawConnection::default()
    };
    let told = |lives: &Lives, raw: &RawConnection, begin| {
        lives.observed(&[*raw], 30_000_000, Epoch(begin), |_| false, true).connections.remove(0)
    };
    let first = told(&lives, &raw, 0);
    assert_eq!((first.opened, first.last_read), (Some(Moment::At(1_000)), Some(Moment::At(9_000))));
    assert_eq!((first.read_gaps.total_us, first.read_gaps.longest_us), (7_000, 6_000));

    // Two windows later it has waited twice more, each time for less.
    lives.turn(&[raw], 0);
    lives.turn(&[raw], 10_000_000);
    (raw.read.gaps, raw.read.turns, raw.read.last, raw.read.bytes) = (10_000_000, 4, 20_000_000, 9);
    let later = told(&lives, &raw, 10_000_000);
    assert_eq!((later.opened, later.last_read), (Some(Moment::Before), Some(Moment::At(10_000))));
    assert_eq!((later.read_gaps.total_us, later.read_gaps.longest_us), (3_000, 1_500), "the mean, at least");
    assert_eq!((first.read_gaps.before_us, later.read_gaps.before_us, later.turns), (0, 7_000, 4));
    let http = later.http.unwrap();
    assert_eq!((http.request.as_str(), http.requested, later.read_bytes), ("GET /", Some(Moment::Before), 9));
}

/// The kernel counts what came, and the FIN; the process may have read but a part of it.
#[test]
fn an_answer_that_was_not_watched_to_its_end_is_not_known_to_be_cut() {
    const CHUNKS: &[u8] = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nxxx";
    let mut lives = Lives::default();
    lives.take(Event::Piece(told(Way::Write, 2_000_000, REQUEST)));
    lives.take(Event::Piece(told(Way::Read, 3_000_000, CHUNKS)));
    let raw = RawConnection {
        cookie: 7,
        opened: 1_000_000,
        established: 1_000_000,
        fin: 5_000_000,
        flags: OPENED | CHUNKED,
        tail: *b"\nxxx",
        read: RawWay { first: 3_000_000, last: 3_000_000, bytes: CHUNKS.len() as u64, turns: 1, ..RawWay::default() },
        total_read: CHUNKS.len() as u64 + 8,
        ..RawConnection::default()
    };
    let seen = |raw: RawConnection, all_transfers| {
        let seen = lives.observed(&[raw], 9_000_000, Epoch(0), |_| false, all_transfers);
        let [connection] = &seen.connections[..] else { panic!("{seen:?}") };
        (connection.read_bytes - CHUNKS.len() as u64, connection.http.as_ref().unwrap().chunks_ended)
    };
    assert_eq!(seen(raw, true), (0, Some(false)));
    assert_eq!(seen(raw, false), (7, None));
    // Nothing but the FIN came meanwhile.
    assert_eq!(seen(RawConnection { total_read: CHUNKS.len() as u64 + 1, ..raw }, false), (0, Some(false)));
}

/// One thread writes, another reads: the event of the write may be the later one.
#[test]
fn an_answer_may_be_told_before_its_request() {
    let in_order = exchange(&[told(Way::Write, 1_000, REQUEST), told(Way::Read, 2_000, ANSWER)]);
    assert_eq!((in_order.status, in_order.answered, in_order.response.ends_at), (Some(200), Some(2_000), Some(43)));
    let turned = exchange(&[told(Way::Read, 1_900, ANSWER), told(Way::Write, 2_000, REQUEST)]);
    assert_eq!((turned.status, turned.answered, turned.response.ends_at), (Some(200), Some(2_000), Some(43)));
    assert_eq!(in_order.response.open_at, None);
    // An answer to what came long before is not this request's.
    let late = exchange(&[told(Way::Read, 1_000, ANSWER), told(Way::Write, 1_000 + EARLY_NS, REQUEST)]);
    assert_eq!(late.status, None);
}

/// Not all commands are looked at: the one that waits now may be one that was seen before.
#[test]
fn a_command_that_waits_is_remembered() {
    let mut heads = Heads::default();
    let mut seen = Vec::new();
    for name in ["GET", "BLPOP", "SET"] {
        let command = format!("*2\r\n${}\r\n{name}\r\n$1\r\na\r\n", name.len());
        heads.take(&told(Way::Write, 1_000, command.as_bytes()));
        seen.push(heads.redis.clone().unwrap());
    }
    assert_eq!(seen, ["GET", "BLPOP", "BLPOP"]);
}

#[test]
fn a_head_may_be_half_and_an_answer_no_http() {
    let half = exchange(&[told(Way::Write, 1_000, REQUEST), told(Way::Read, 2_000, &ANSWER[..25])]);
    assert_eq!((half.status, half.response.open_at), (Some(200), Some(25)));
    // The rest of it, in two reads more.
    let at = |from: usize, to: usize| Piece { offset: from as u64, ..told(Way::Read, 3_000, &ANSWER[from..to]) };
    for cut in [3, 15, 25] {
        let whole = exchange(&[told(Way::Write, 1_000, REQUEST), at(0, cut), at(cut, 37), at(37, ANSWER.len())]);
        let response = &whole.response;
        assert_eq!((whole.status, response.open_at, response.body_at), (Some(200), None, Some(38)), "{cut}");
        assert_eq!((response.ends_at, response.head.len()), (Some(43), 38), "{cut}");
    }
    // A read of it was missed.
    let missed = exchange(&[told(Way::Write, 1_000, REQUEST), at(0, 25), at(30, ANSWER.len())]);
    assert_eq!((missed.response.open_at, missed.response.ends_at), (Some(25), None));
    let other = exchange(&[told(Way::Write, 1_000, REQUEST), told(Way::Read, 2_000, b"SSH-2.0-x\r\n")]);
    assert_eq!((other.status, other.response.not_http.as_deref()), (None, Some("SSH-2.0-x\\r\\n")));
}
