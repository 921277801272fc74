//! What a tracker promises, on made-up people.

use super::*;
use crate::pose::People;
use proptest::prelude::*;

const SIZE: [f32; 2] = [60.0, 160.0];

/// A person whose box begins at a place, with 17 joints in it.
fn person(x: f32, y: f32, score: f32) -> Person {
    let [w, h] = SIZE;
    let joint = |i: usize| {
        let (across, down) = ((i * 7 % 17) as f32 / 16.0, i as f32 / 16.0);
        Keypoint::new(x + across * w, y + down * h, score)
    };
    Person::new(score, [x, y, x + w, y + h], (0..17).map(joint).collect())
}

/// Numbers that look random and are the same in every run, 0 to 1.
fn noise(seed: u64) -> f32 {
    let mut z = seed.wrapping_add(1).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    ((z ^ (z >> 31)) >> 40) as f32 / (1u64 << 24) as f32
}

fn tracker() -> Tracker {
    Tracker::new(TrackerOptions::default()).unwrap()
}

/// Who is who in each frame.
fn track(
    tracker: &mut Tracker,
    frames: impl IntoIterator<Item = (f64, Vec<Person>)>,
) -> Vec<Vec<Option<u64>>> {
    let ids = frames.into_iter().map(|(time, mut people)| {
        tracker.update(&mut people, time).unwrap();
        people.iter().map(|person| person.id).collect()
    });
    ids.collect()
}

/// Two people on the same path who meet after two seconds.
fn crossing(fps: usize) -> impl Iterator<Item = (f64, Vec<Person>)> {
    (0..4 * fps).map(move |i| {
        let t = i as f64 / fps as f64;
        let x = 50.0 * t as f32;
        (t, vec![person(100.0 + x, 50.0, 0.9), person(300.0 - x, 62.0, 0.8)])
    })
}

#[test]
fn people_who_cross_keep_their_ids_at_any_rate() {
    for fps in [3, 5, 10, 30, 60] {
        for (i, ids) in track(&mut tracker(), crossing(fps)).into_iter().enumerate() {
            assert_eq!(ids, [Some(1), Some(2)], "{fps} frames a second, frame {i}");
        }
    }
}

#[test]
fn one_frame_a_second_and_thirty_agree() {
    // Slow walkers, one of whom comes later and one of whom is away for 1.5 s.
    let scene = |fps: usize| {
        (0..10 * fps).map(move |i| {
            let t = i as f64 / fps as f64;
            let x = 25.0 * t as f32;
            let mut people = vec![person(100.0 + x, 50.0, 0.9)];
            people.extend((t >= 3.0).then(|| person(900.0 - x, 55.0, 0.8)));
            people.extend((!(5.5..7.0).contains(&t)).then(|| person(500.0, 300.0 + x, 0.7)));
            (t, people)
        })
    };
    let (slow, fast) = (track(&mut tracker(), scene(1)), track(&mut tracker(), scene(30)));
    for (second, ids) in slow.iter().enumerate() {
        // At 3 s the one who comes has been seen once.
        if second != 3 {
            assert_eq!(*ids, fast[30 * second], "after {second} s");
        }
    }
}

#[test]
fn a_person_who_flickers_keeps_the_id() {
    // Seen in every other frame only, and mostly with a low score.
    let frames = (0..300).map(|i| {
        let mut people = vec![person(600.0, 300.0, 0.9)];
        if i % 2 == 0 {
            let score = if i % 6 == 0 { 0.6 } else { 0.15 };
            people.push(person(100.0 + 2.0 * i as f32 + 4.0 * noise(i), 50.0, score));
        }
        (i as f64 / 30.0, people)
    });
    for (i, ids) in track(&mut tracker(), frames).into_iter().enumerate() {
        assert_eq!(ids, [Some(1), Some(2)][..ids.len()], "frame {i}");
    }
}

#[test]
fn low_scores_continue_a_track_and_begin_none() {
    let frames = (0..20).map(|i| {
        let score = if i == 0 { 0.9 } else { 0.12 };
        (i as f64 / 10.0, vec![person(100.0, 100.0, score), person(400.0, 100.0, 0.12)])
    });
    for ids in track(&mut tracker(), frames) {
        assert_eq!(ids, [Some(1), None]);
    }
}

#[test]
fn what_is_seen_once_has_no_id() {
    let frames = [
        (0.0, vec![person(0.0, 0.0, 0.9)]),
        (0.1, vec![person(0.0, 0.0, 0.9), person(300.0, 0.0, 0.9)]),
        (0.2, vec![person(0.0, 0.0, 0.9), person(600.0, 0.0, 0.9)]),
        (0.3, vec![person(0.0, 0.0, 0.9), person(600.0, 0.0, 0.9)]),
    ];
    let ids = track(&mut tracker(), frames.clone());
    assert_eq!(ids, [vec![Some(1)], vec![Some(1), None], vec![Some(1), None], vec![Some(1), Some(2)]]);
    let mut eager = Tracker::new(TrackerOptions::default().with_min_hits(1)).unwrap();
    let ids = track(&mut eager, frames);
    assert_eq!(ids[1..], [vec![Some(1), Some(2)], vec![Some(1), Some(3)], vec![Some(1), Some(3)]]);
}

#[test]
fn max_unseen_is_in_seconds() {
    for fps in [4, 30, 100] {
        for (gap, same) in [(1.9, true), (2.1, false)] {
            let mut tracker = tracker();
            let seen = |t: f64| t <= 1.0 || t >= 1.0 + gap;
            let frames = (0..5 * fps).map(|i| i as f64 / fps as f64);
            let frames = frames
                .map(|t| (t, if seen(t) { vec![person(100.0, 100.0, 0.9)] } else { vec![] }))
                .chain([(5.0, vec![person(100.0, 100.0, 0.9)])]);
            let ids = track(&mut tracker, frames);
            let expected = if same { Some(1) } else { Some(2) };
            assert_eq!(ids.last().unwrap(), &[expected], "{fps} frames a second, a gap of {gap} s");
        }
    }
    // One gap between two frames.
    let frames = [0.0, 0.1, 2.2].map(|t| (t, vec![person(100.0, 100.0, 0.9)]));
    assert_eq!(track(&mut tracker(), frames)[2], [None]);
    // Times that are no exact numbers: a second of tenths is not longer than a second.
    let options = TrackerOptions::default().with_max_unseen(0.1);
    let frames = (0..50).map(|i| (i as f64 * 0.1, vec![person(100.0, 100.0, 0.9)]));
    assert!(track(&mut Tracker::new(options).unwrap(), frames).iter().all(|ids| ids == &[Some(1)]));
}

#[test]
fn no_id_is_given_twice_also_after_a_reset() {
    let mut tracker = tracker();
    let frames = || (0..5).map(|i| (i as f64, vec![person(0.0, 0.0, 0.9), person(300.0, 0.0, 0.8)]));
    assert_eq!(track(&mut tracker, frames())[4], [Some(1), Some(2)]);
    tracker.reset();
    assert_eq!(track(&mut tracker, frames())[4], [Some(3), Some(4)]);
}

#[test]
fn keypoints_tell_people_apart_whose_boxes_are_the_same() {
    // Two joints-mirrored people in one box; boxes alone cannot tell them apart.
    let mirrored = |score: f32| {
        let mut person = person(100.0, 100.0, score);
        person.keypoints.iter_mut().for_each(|k| k.y = 360.0 - k.y);
        person
    };
    let frames = (0..20).map(|i| {
        // Who has the higher score changes.
        let (a, b) = if i % 3 == 0 { (0.9, 0.6) } else { (0.6, 0.9) };
        (i as f64 / 10.0, vec![person(100.0, 100.0, a), mirrored(b)])
    });
    let ids = track(&mut tracker(), frames);
    assert!(ids.iter().all(|now| *now == ids[0] && now[0].is_some() && now[0] != now[1]), "{ids:?}");
}

#[test]
fn odd_people_are_tracked_and_impossible_ones_are_errors() {
    let thin = |x: f32| Person::new(0.9, [x, 10.0, x, 90.0], Vec::new());
    let point = |x: f32| Person::new(0.9, [x, 300.0, x, 300.0], vec![Keypoint::new(x, 300.0, 0.0)]);
    let huge = || Person::new(1.0, [f32::MIN, f32::MIN, f32::MAX, f32::MAX], Vec::new());
    // The number of keypoints changes from frame to frame.
    let changing = |i: usize| {
        let mut person = person(500.0, 500.0, 0.7);
        person.keypoints.truncate([17, 14, 0, 3][i % 4]);
        person
    };
    let frames = (0..30).map(|i| {
        let people = vec![thin(100.0), point(200.0), huge(), changing(i)];
        (i as f64 * 0.1, people)
    });
    for ids in track(&mut tracker(), frames) {
        assert!(ids.iter().all(Option::is_some), "{ids:?}");
    }

    let mut tracker = tracker();
    let good = person(0.0, 0.0, 0.9);
    let with = |change: fn(&mut Person)| {
        let mut person = good.clone();
        change(&mut person);
        person
    };
    for (person, part) in [
        (with(|p| p.score = f32::NAN), "person 2: score NaN: expected a finite number"),
        (with(|p| p.bbox[3] = f32::INFINITY), "person 2: box [0.0, 0.0, 60.0, inf]: expected finite"),
        (with(|p| p.bbox[0] = 61.0), "person 2: box [61.0, 0.0, 60.0, 160.0]: expected x1, y1, x2, y2 with"),
        (with(|p| p.keypoints[4].y = f32::NAN), "person 2: keypoint 5 at"),
    ] {
        let mut people = People::from(vec![good.clone(), person]);
        let error = tracker.update(&mut people, 1.0).unwrap_err().to_string();
        assert!(error.starts_with("tracker: ") && error.contains(part), "{error}");
        assert!(people[0].id.is_none());
    }
    // An error changes nothing: the same time is still to come.
    tracker.update(&mut [good], 1.0).unwrap();
}

#[test]
fn times_rise() {
    let mut tracker = tracker();
    tracker.update(&mut [], 5.0).unwrap();
    for (time, part) in [
        (5.0, "time 5 s: expected more than 5 s"),
        (-1.0, "time -1 s: expected more"),
        (f64::NAN, "time NaN"),
        (f64::INFINITY, "time inf: expected a finite"),
    ] {
        let error = tracker.update(&mut [], time).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
    tracker.reset();
    tracker.update(&mut [], -1.0).unwrap();
    // The smallest and the largest steps there are.
    let people = || vec![person(0.0, 0.0, 0.9)];
    let times = [-f64::MAX, -1.0, 0.0, f64::MIN_POSITIVE, 1e-300, 1e-9, 1.0, f64::MAX];
    tracker.reset();
    assert_eq!(track(&mut tracker, times.map(|t| (t, people()))).len(), 8);
}

#[test]
fn options_are_checked() {
    let default = TrackerOptions::default;
    for (options, part) in [
        (default().with_min_iou(1.5), "min_iou 1.5: expected a number from 0 to 1"),
        (default().with_min_score(f32::NAN), "min_score NaN"),
        (default().with_max_unseen(-1.0), "max_unseen -1: expected seconds from 0 to 3600"),
        (default().with_max_unseen(f64::INFINITY), "max_unseen inf"),
        (default().with_min_hits(0), "min_hits 0"),
        (default().with_sigmas(vec![0.1, 0.0]), "sigma 2 0: expected a number above 0"),
    ] {
        let error = Tracker::new(options).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    }
}

#[test]
fn ten_thousand_frames_of_strangers_keep_memory_flat() {
    let mut tracker = tracker();
    let mut most = 0;
    for i in 0..10_000u64 {
        let at = |j: u64| 5000.0 * noise(100 * i + j);
        let mut people: Vec<Person> =
            (0..5).map(|j| person(at(j), at(j + 10), noise(100 * i + j + 20))).collect();
        tracker.update(&mut people, i as f64 / 30.0).unwrap();
        most = most.max(tracker.tracks.len());
    }
    // Two seconds of thirty frames of five people.
    assert!(most <= 5 * 61 && tracker.tracks.capacity() <= 1024, "{most} tracks");

    // And there is a bound where people are many and never forgotten.
    let mut tracker = Tracker::new(TrackerOptions::default().with_max_unseen(3600.0)).unwrap();
    for i in 0..12 {
        let mut people: Vec<Person> =
            (0..600).map(|j| person(1000.0 * j as f32, 1000.0 * i as f32, 0.9)).collect();
        tracker.update(&mut people, i as f64).unwrap();
        assert!(tracker.tracks.len() <= MOST_TRACKS + 600);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn order_does_not_matter(seed in 0u64..1000, turns in prop::collection::vec(0usize..100, 25)) {
        let scene = |i: u64| -> Vec<Person> {
            let all = (0..8u64).filter(|j| noise(seed * 7919 + i * 31 + j) > 0.15);
            let x = |j: u64| 300.0 * noise(seed + j * 13) + (noise(j) - 0.5) * 10.0 * i as f32;
            // Scores repeat, so that ties occur.
            all.map(|j| person(x(j), 30.0 * j as f32, [0.2, 0.5, 0.5, 0.9][(i + j) as usize % 4])).collect()
        };
        let (mut plain, mut turned) = (tracker(), tracker());
        for (i, &turn) in turns.iter().enumerate() {
            let mut people = scene(i as u64);
            let mut other = people.clone();
            let by = turn % other.len().max(1);
            other.rotate_left(by);
            if turn % 2 == 1 {
                other.reverse();
            }
            plain.update(&mut people, i as f64 / 15.0).unwrap();
            turned.update(&mut other, i as f64 / 15.0).unwrap();
            for person in &people {
                prop_assert!(other.contains(person), "frame {i}: {person:?} not in {other:?}");
            }
            let mut ids: Vec<u64> = people.iter().filter_map(|person| person.id).collect();
            ids.sort_unstable();
            prop_assert!(ids.windows(2).all(|pair| pair[0] != pair[1]), "{ids:?}");
        }
    }
}

#[test]
fn a_camera_that_jumps_changes_no_ids() {
    // A row of people who walk, and a view that jumps by up to more than they are wide, thirty times a second.
    let frames = (0..60).map(|i| {
        let [jump, rise] = [70.0 * (noise(i) - 0.5), 60.0 * (noise(i + 1000) - 0.5)];
        let x = |j: u64| 250.0 * j as f32 + i as f32 * (noise(j) - 0.5) + jump;
        (i as f64 / 30.0, (0..5).map(|j| person(x(j), 100.0 + rise, 0.9 - 0.05 * j as f32)).collect())
    });
    for (i, ids) in track(&mut tracker(), frames).into_iter().enumerate() {
        assert_eq!(ids, [1, 2, 3, 4, 5].map(Some), "frame {i}");
    }
}

#[test]
fn a_stranger_does_not_take_over_the_id_of_one_who_left() {
    // Boxes alone. One leaves; a second and a half later another stands beside that place, and a third goes on all the time.
    let bare = |x: f32| Person::new(0.9, [x, 50.0, x + 60.0, 210.0], Vec::new());
    let frames = (0..90).map(|i| {
        let mut people = vec![bare(600.0 + i as f32)];
        people.extend((i < 20).then(|| bare(100.0)));
        people.extend((i >= 65).then(|| bare(150.0)));
        (i as f64 / 30.0, people)
    });
    let ids = track(&mut tracker(), frames);
    assert_eq!((&ids[19][..], &ids[89][..]), (&[Some(2), Some(1)][..], &[Some(2), Some(3)][..]));
}

/// Where a person is missed in a frame, somebody doubtful beside the place does not take over the id; somebody sure does.
#[test]
fn the_less_sure_must_be_more_alike() {
    let after = |score: f32| {
        let frames = (0..4).map(|i| {
            let t = i as f64 / 10.0;
            (t, vec![if i < 3 { person(100.0, 50.0, 0.9) } else { person(150.0, 75.0, score) }])
        });
        track(&mut tracker(), frames).pop().unwrap()
    };
    assert_eq!(after(0.9), [Some(1)]);
    assert_eq!(after(0.35), [None]);
}
