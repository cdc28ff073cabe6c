//! How much is kept for a peer: counted by the allocator, so this file has one test only.

use std::{
    alloc::{GlobalAlloc, Layout, System},
    sync::atomic::{AtomicUsize, Ordering},
};

use rtmp::{
    AudioPackets, Event, ServerSession,
    amf0::{Reader, Value},
    chunk::{ChunkWriter, kind},
    message::Command,
};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);
static MOST: AtomicUsize = AtomicUsize::new(0);

#[expect(unsafe_code, reason = "an allocator can be counted in no other way; all work is the system's")]
// SAFETY: every call is passed on as it is.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        let live = LIVE.fetch_add(layout.size(), Ordering::Relaxed) + layout.size();
        MOST.fetch_max(live, Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, place: *mut u8, layout: Layout) {
        LIVE.fetch_sub(layout.size(), Ordering::Relaxed);
        // SAFETY: the caller's promises are passed on.
        unsafe { System.dealloc(place, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// The most bytes that were allocated at once while this ran, beyond those before it, and those it left.
fn allocated<T>(run: impl FnOnce() -> T) -> (usize, usize, T) {
    let before = LIVE.load(Ordering::Relaxed);
    MOST.store(before, Ordering::Relaxed);
    let result = run();
    (MOST.load(Ordering::Relaxed) - before, LIVE.load(Ordering::Relaxed) - before, result)
}

fn feed(session: &mut ServerSession, bytes: &[u8]) {
    for mut input in bytes.chunks(1_024) {
        while let Ok(Some(event)) = session.receive(&mut input) {
            if let Event::PublishRequested(_) = event {
                session.accept();
            }
        }
        session.take_output();
    }
}

/// A header of type 0.
fn header(stream: u8, length: u32, kind: u8) -> Vec<u8> {
    let [_, a, b, c] = length.to_be_bytes();
    vec![stream, 0, 0, 0, a, b, c, kind, 1, 0, 0, 0]
}

#[test]
fn nothing_is_allocated_on_the_word_of_a_length_and_a_publisher_costs_little() {
    let writer = ChunkWriter::new();
    let mut request = vec![3];
    request.resize(1 + 2 * 1536, 0);
    let mut say = |stream_id, command: Command| {
        writer.write(3, 0, kind::COMMAND, stream_id, &command.payload(), &mut request);
    };
    let object = Value::object([("app", "live".into())]);
    say(0, Command { object, ..Command::new("connect", 1.0, vec![]) });
    say(1, Command::new("publish", 2.0, vec!["KEY".into()]));

    // A publisher that has sent its sound for a while: what stays, and what it took at most.
    let mut sound = Vec::new();
    for timestamp in (0..20_000).step_by(20) {
        writer.write(4, timestamp, kind::AUDIO, 1, &[0xAF; 400], &mut sound);
        writer.write(6, timestamp, kind::VIDEO, 1, &[0x17; 40_000], &mut sound);
    }
    let (most, left, mut session) = allocated(|| {
        let mut session = ServerSession::new(1, false);
        feed(&mut session, &request);
        feed(&mut session, &sound);
        session
    });
    assert!(session.publishing());
    assert_eq!(session.skipped_video_bytes(), 40_000_000);
    assert!(left < 4 * 1024, "{left} bytes stay for an idle publisher");
    assert!(most < 16 * 1024, "{most} bytes at most for a publisher");

    // The longest message that each type may claim, and one byte of it.
    let claims = [
        (kind::AUDIO, 65_536),
        (kind::DATA, 262_144),
        (kind::COMMAND, 262_144),
        (kind::AGGREGATE, 262_144),
        (kind::VIDEO, 0xFF_FFFF),
        (99, 0xFF_FFFF),
    ];
    for (index, (kind, length)) in (10..).zip(claims) {
        let mut bytes = header(index, length, kind);
        bytes.push(0);
        let (most, ..) = allocated(|| feed(&mut session, &bytes));
        assert!(most < 2 * 1024, "{most} bytes for a claim of {length} of type {kind}");
        // The rest of the chunk, so that the next can begin.
        feed(&mut session, &[0; 127]);
    }
    let mut keeping = ServerSession::new(1, true);
    feed(&mut keeping, &request);
    let (most, ..) =
        allocated(|| feed(&mut keeping, &[header(6, 4 * 1024 * 1024, kind::VIDEO), vec![0]].concat()));
    assert!(most < 2 * 1024, "{most} bytes for a claim of 4 MiB of video that is kept");

    // Counts and lengths inside of messages.
    let values: [&[u8]; 4] = [
        &[10, 0xFF, 0xFF, 0xFF, 0xFF],
        &[12, 0xFF, 0xFF, 0xFF, 0xFF],
        &[8, 0xFF, 0xFF, 0xFF, 0xFF],
        &[2, 0xFF, 0xFF],
    ];
    for value in values {
        let (most, _, read) = allocated(|| Reader::new(value).read());
        assert!(read.is_err());
        assert!(most < 1_024, "{most} bytes for {value:?}");
    }
    let (most, _, tags) = allocated(|| AudioPackets::new(b"\x95\x11Opus\x00\xFF\xFF\xFF").count());
    assert_eq!((most, tags), (0, 1));

    // The most values that one command may have.
    let mut many = Vec::new();
    let elements = Value::StrictArray(vec![Value::Null; 1_000]);
    writer.write(3, 0, kind::COMMAND, 0, &Command::new("x", 0.0, vec![elements]).payload(), &mut many);
    let (most, ..) = allocated(|| feed(&mut session, &many));
    assert!(most < 256 * 1024, "{most} bytes for a thousand values");
    assert!(session.receive(&mut [].as_slice()).unwrap().is_none());
}
