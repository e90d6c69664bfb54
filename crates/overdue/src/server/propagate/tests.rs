use proptest::prelude::*;

use super::*;

const STYLES: [Style; 3] = [Style::Grpc, Style::Millis, Style::Text];

fn read(style: Style, value: &str) -> Result<Duration, Unreadable> {
    style.read(value.as_bytes())
}

fn text(style: Style, remaining: Duration) -> Option<String> {
    style.write(remaining).map(|text| text.to_string())
}

#[test]
fn every_unit_of_grpc() {
    for (value, expected) in [
        ("1n", Duration::from_nanos(1)),
        ("20u", Duration::from_micros(20)),
        ("00000250m", Duration::from_millis(250)),
        ("99999999S", Duration::from_secs(99_999_999)),
        ("2M", Duration::from_secs(120)),
        ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
        ("0m", Duration::ZERO),
    ] {
        // 9 digits are one too many, whatever they say.
        let expected = if value.len() > 9 { Err(Unreadable::TooLong { most: 8 }) } else { Ok(expected) };
        assert_eq!(read(Style::Grpc, value), expected, "{value}");
    }
    assert_eq!(read(Style::Grpc, "123456789m"), Err(Unreadable::TooLong { most: 8 }));
}

#[test]
fn what_is_not_of_the_style_says_why() {
    for (style, value, why) in [
        (Style::Grpc, "", Unreadable::Empty),
        (Style::Grpc, "m", Unreadable::Empty),
        (Style::Grpc, "250", Unreadable::NoUnit),
        (Style::Grpc, "250s", Unreadable::UnknownUnit(b's')),
        (Style::Grpc, " 250m", Unreadable::NoNumber),
        (Style::Grpc, "-1m", Unreadable::NoNumber),
        (Style::Grpc, "+1m", Unreadable::NoNumber),
        (Style::Grpc, "1.5S", Unreadable::NoNumber),
        (Style::Millis, "", Unreadable::Empty),
        (Style::Millis, "250ms", Unreadable::NoNumber),
        (Style::Millis, "1e3", Unreadable::NoNumber),
        (Style::Millis, "1234567890123456", Unreadable::TooLong { most: 15 }),
        (Style::Text, "", Unreadable::Empty),
        (Style::Text, "-5ms", Unreadable::NoDuration),
        (Style::Text, "5 parsecs", Unreadable::NoDuration),
        (Style::Text, "0.000000000000000000000000000000001s", Unreadable::TooLong { most: TEXT_MAX }),
    ] {
        assert_eq!(read(style, value), Err(why), "{style:?} {value:?}");
    }
    assert_eq!(Style::Text.read(b"\xff\xfe"), Err(Unreadable::NoDuration));
}

#[test]
fn a_header_of_ones_choice_is_milliseconds_or_has_its_unit() {
    assert_eq!(read(Style::Text, "250"), Ok(Duration::from_millis(250)));
    assert_eq!(read(Style::Text, "1.5s"), Ok(Duration::from_millis(1_500)));
}

#[test]
fn grpc_is_written_in_the_finest_unit_that_fits() {
    for (remaining, expected) in [
        (Duration::from_nanos(99_999_999), "99999999n"),
        (Duration::from_millis(100), "100000u"),
        (Duration::from_secs(99), "99000000u"),
        (Duration::from_secs(100), "100000m"),
        (Duration::from_secs(100_000), "100000S"),
        (Duration::from_secs(100_000_000), "1666666M"),
        (Duration::from_secs(6_000_000_000), "1666666H"),
        (Duration::MAX, "99999999H"),
    ] {
        assert_eq!(text(Style::Grpc, remaining).as_deref(), Some(expected));
    }
}

#[test]
fn what_rounds_to_nothing_has_no_text() {
    assert_eq!(text(Style::Grpc, Duration::ZERO), None);
    assert_eq!(text(Style::Millis, Duration::from_micros(999)), None);
    assert_eq!(text(Style::Millis, Duration::from_micros(1_999)).as_deref(), Some("1"));
}

#[test]
fn a_reserve_is_kept_but_not_of_little() {
    let left = |remaining_us, reserve_us| {
        left_for_next(Duration::from_micros(remaining_us), Duration::from_micros(reserve_us)).as_micros()
    };
    assert_eq!((left(1_000_000, 5000), left(1_000_000, 0)), (995_000, 1_000_000));
    // Half of it, and then a millisecond, for as long as that remains.
    assert_eq!((left(10_000, 5000), left(9_000, 5000), left(4_000, 9_000)), (5000, 4500, 2000));
    assert_eq!((left(1_500, 5000), left(1_000, 5000), left(999, 5000), left(0, 5000)), (1000, 1000, 999, 0));
}

proptest! {
    #[test]
    fn a_reserve_never_lengthens(remaining in 0_u64..10_000_000, reserve in 0_u64..10_000_000) {
        let (remaining, reserve) = (Duration::from_micros(remaining), Duration::from_micros(reserve));
        let left = left_for_next(remaining, reserve);
        prop_assert!(left <= remaining && left >= remaining / 2);
        // What can be said still can.
        prop_assert_eq!(text(Style::Millis, left).is_some(), text(Style::Millis, remaining).is_some());
    }
}

#[test]
fn the_shortest_of_all_headers_counts_under_its_own_name() {
    let headers = TimeoutHeaders::default().and("X-Budget", Style::Text);
    let all = [("GRPC-Timeout", "1S"), ("x-budget", "300ms"), ("x-envoy-expected-rq-timeout-ms", "400"), ("age", "1")];
    let all = all.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let limit = headers.read(all).unwrap().unwrap();
    assert_eq!((limit.name, limit.value), (LimitName::Total, Duration::from_millis(300)));
    assert_eq!(limit.origin, Origin::Header("X-Budget".into()));
    assert_eq!(headers.read([(b"age".as_slice(), b"1".as_slice())]), Ok(None));
    // The same header twice.
    let twice =
        [("grpc-timeout", "9S"), ("grpc-timeout", "2S")].map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    assert_eq!(headers.read(twice).unwrap().unwrap().value, Duration::from_secs(2));
}

#[test]
fn one_that_cannot_be_read_is_an_error_beside_good_ones() {
    let headers = [("x-envoy-expected-rq-timeout-ms", "400"), ("grpc-timeout", "4\x1b[2Js")];
    let headers = headers.map(|(name, value)| (name.as_bytes(), value.as_bytes()));
    let error = TimeoutHeaders::default().read(headers).unwrap_err();
    assert_eq!(error.to_string(), "header grpc-timeout says \"4\\x1b[2Js\": there is no unit 's': one of H M S m u n");
}

proptest! {
    #[test]
    fn writing_never_lengthens_and_loses_less_than_a_unit(secs in 0_u64..1 << 38, ns in 0_u32..1_000_000_000, shift in 0_u32..40) {
        let remaining = Duration::new(secs >> shift, ns);
        for style in STYLES {
            let Some(text) = style.write(remaining) else {
                prop_assert!(remaining < Duration::from_millis(1));
                continue;
            };
            let again = style.read(text.as_bytes()).unwrap();
            prop_assert!(again <= remaining);
            // A coarser unit is taken only where 8 digits no longer do, so 5 digits are left at least.
            let lost = remaining - again;
            prop_assert!(lost < Duration::from_millis(1) || lost < remaining / 90_000);
        }
    }

    #[test]
    fn any_bytes_are_read_or_refused(bytes: Vec<u8>) {
        for style in STYLES {
            if let Ok(remaining) = style.read(&bytes) {
                prop_assert!(style.write(remaining).is_none_or(|text| style.read(text.as_bytes()).unwrap() <= remaining));
            }
        }
    }
}
