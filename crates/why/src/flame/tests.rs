use proptest::prelude::*;

use super::*;
use crate::observation::{Cpu, Frame, Go, GoroutineGroup, HotStack, Thread, Threads};

fn stack(functions: &[&str], cut: Option<&str>) -> Stack {
    let frame = |name: &&str| Frame { function: Some((*name).to_owned()), ..Frame::default() };
    Stack { frames: functions.iter().map(frame).collect(), cut: cut.map(str::to_owned) }
}

fn folded(text: &str) -> Folded {
    Folded::parse(text).unwrap()
}

#[test]
fn samples_become_lines_with_the_thread_first() {
    let hot = |stack, samples| HotStack { stack, thread: "worker 7".to_owned(), samples };
    let hot = vec![
        hot(stack(&["inner", "main"], None), 60),
        hot(stack(&["f"], Some("/x was built without frame pointers")), 30),
    ];
    let cpu = Cpu { hot: Some(hot), samples: 100, ..Cpu::default() };
    let seen = Observation { cpu: Some(cpu), ..Observation::default() };
    let graph = Graph::of(&seen, Sight::On).unwrap();
    assert_eq!(graph.folded.text(), "[left out] 10\nworker_7;[ends early];f 30\nworker_7;main;inner 60\n");
    assert_eq!((graph.unit, graph.incomplete, graph.folded.total()), (Unit::Samples, 30, 100));
    assert!((graph.whole() - 0.7).abs() < 1e-9);
    assert_eq!(graph.cut.as_deref(), Some("/x was built without frame pointers"));
    assert_eq!(Graph::of(&Observation::default(), Sight::On), None);
    assert_eq!(Graph::of(&seen, Sight::Off), None);
}

#[test]
fn a_file_says_what_it_shows() {
    for kind in Kind::ALL {
        let text = format!("{}main;f 3\n", kind.heading());
        assert_eq!(Kind::of(&text), Some(kind));
        assert_eq!(folded(&text).text(), "main;f 3\n");
    }
    assert_eq!(Kind::of("main;f 3\n"), None);
    assert_eq!(Kind::of("# overdue flame --sideways, apples\nmain;f 3\n"), None);
    // Elsewhere it is a line like any other.
    assert_eq!(Folded::parse("main;f 3\n# overdue flame --on, samples\n"), Err(FoldedError::Line(2)));
    assert_eq!(Folded::parse("# overdue flame --on, samples\n"), Err(FoldedError::Empty));
}

#[test]
fn what_has_no_name_is_one_frame_a_file() {
    let frame = |module: &str| Frame { module: Some(module.to_owned()), ..Frame::default() };
    let frames = vec![frame("/usr/lib/libfoo.so.1+0x12"), frame("0x7f00"), Frame::default()];
    let mut graph = Graph::new(Unit::Microseconds);
    graph.add("t", &Stack { frames, cut: None }, Some("futex"), 5);
    assert_eq!(graph.folded.text(), "t;[unknown];[no file];[libfoo.so.1];[futex] 5\n");
}

#[test]
fn goroutines_come_before_threads_and_running_ones_do_not_wait() {
    let group = |state, last| GoroutineGroup {
        state,
        wait_reason: Some("chan receive".to_owned()),
        stack: stack(&["main.leaked"], None),
        created_by: Some("main.leak at /src/main.go:29".to_owned()),
        last,
        ..GoroutineGroup::default()
    };
    let groups = vec![group(GoroutineState::Waiting, 3), group(GoroutineState::Running, 9)];
    let go = Go { groups, read_in_full: 12, ..Go::default() };
    let threads = Threads { waits: Some(Vec::new()), ..Threads::default() };
    let seen = Observation { go: Some(go), threads: Some(threads), ..Observation::default() };
    let graph = Graph::of(&seen, Sight::Wait).unwrap();
    assert_eq!(graph.unit, Unit::Goroutines);
    assert_eq!(graph.folded.text(), "go from main.leak;main.leaked;[chan receive] 3\n");
}

#[test]
fn without_stacks_waits_are_told_by_their_calls() {
    let thread = Thread { name: "a".to_owned(), looks: 4, calls: vec![("futex".to_owned(), 3)], ..Thread::default() };
    let threads = Threads { threads: vec![thread], ..Threads::default() };
    let seen = Observation { window_us: 1000, threads: Some(threads), ..Observation::default() };
    let graph = Graph::of(&seen, Sight::Wait).unwrap();
    assert_eq!(graph.folded.text(), "a;[ends early];[futex] 750\n");
    assert!(graph.whole() < 0.01);
}

#[test]
fn names_break_no_line() {
    let mut folded = Folded::default();
    folded.add(["a;b\n", "\u{1b}[2J\u{202e}", " ", "operator new 12"], 3);
    assert_eq!(folded.text(), "a:b;?[2J?;?;operator new_12 3\n");
}

#[test]
fn collapsed_stacks_of_others_are_read() {
    let read = folded("main;a 1\nmain;a 2\n\nmain;b c 3.6\r\n");
    assert_eq!(read.text(), "main;a 3\nmain;b c 4\n");
    for (text, error) in [
        ("", FoldedError::Empty),
        ("main;a", FoldedError::Line(1)),
        ("main;a 1\nmain;a x", FoldedError::Line(2)),
        (" 3", FoldedError::Line(1)),
        ("main;a -3", FoldedError::Line(1)),
        ("main;a inf", FoldedError::Line(1)),
    ] {
        assert_eq!(Folded::parse(text), Err(error), "{text:?}");
    }
}

#[test]
fn too_many_stacks_are_refused_in_a_file_and_counted_in_a_watch() {
    let text: String = (0..=STACKS_MAX).map(|at| format!("f{at} 1\n")).collect();
    assert_eq!(Folded::parse(&text), Err(FoldedError::TooMany));
    let mut folded = Folded::default();
    for at in 0..STACKS_MAX + 5 {
        folded.add([format!("f{at}").as_str()], 1);
    }
    assert_eq!(folded.stacks.get(LEFT_OUT), Some(&5));
}

#[test]
fn callers_are_those_of_the_heaviest_stack() {
    let folded = folded("t;main;light;read 1\nt;main;heavy;read 9\nt;main;heavy;read;copy 90\n");
    assert_eq!(folded.callers("read"), ["heavy", "main", "t"]);
    assert_eq!(folded.callers("nobody"), [] as [&str; 0]);
}

#[test]
fn functions_count_once_in_a_stack() {
    let functions = folded("main;f;f 2\nmain;g 1").functions();
    let of = |name: &str| functions.iter().find(|it| it.name == name).map(|it| (it.own, it.total)).unwrap();
    assert_eq!((of("main"), of("f"), of("g")), ((0, 3), (2, 2), (1, 1)));
    assert_eq!(functions[0].name, "f");
}

#[test]
fn changes_are_in_shares_and_the_place_comes_before_its_callers() {
    // The same load for ten times as long, and g from a tenth to a half.
    let (before, after) = (folded("main;f 90\nmain;g 10"), folded("main;f 500\nmain;g 500"));
    let changes = changes(&before, &after);
    assert_eq!(changes.iter().map(|it| it.name.as_str()).collect::<Vec<_>>(), ["f", "g"]);
    assert!((changes[1].own.0 - 0.1).abs() < 1e-9 && (changes[1].own.1 - 0.5).abs() < 1e-9);
    assert!(super::changes(&before, &before).is_empty());
    let (before, after) = (folded("main;a;b;hot 1\nmain;x 9"), folded("main;a;b;hot 9\nmain;x 1"));
    assert_eq!(super::changes(&before, &after)[0].name, "hot");
}

#[test]
fn a_differential_is_scaled_to_what_came_after() {
    let (before, after) = (folded("f 1\ng 1"), folded("f 30\nh 10"));
    assert_eq!(Folded::differential(&before, &after), "f 20 30\ng 20 0\nh 0 10\n");
}

proptest! {
    #[test]
    fn any_text_is_read_or_refused(text in "[ -~\n;]{0,200}") {
        if let Ok(read) = Folded::parse(&text) {
            prop_assert_eq!(Folded::parse(&read.text()).unwrap(), read);
        }
    }

    #[test]
    fn any_names_are_read_back(names in proptest::collection::vec(any::<String>(), 1..5), weight in 1_u64..1000) {
        let mut written = Folded::default();
        written.add(names.iter().map(String::as_str), weight);
        prop_assert_eq!(written.text().lines().count(), 1);
        prop_assert_eq!(Folded::parse(&written.text()).unwrap(), written);
    }
}
