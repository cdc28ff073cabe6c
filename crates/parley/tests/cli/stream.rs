//! `parley stream` against a scripted server.

use std::process::Stdio;

use crate::scripted::{SECRET, Server, caption, end, file, parley, samples, signal, soon, wav};
use serde_json::json;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Bytes of a second of 16 kHz, 16 bit, mono.
const SECOND: usize = 32_000;

#[tokio::test]
async fn captions_of_this_stream_are_printed_and_others_are_not() {
    let server = Server::start().await;
    let sound = wav(&samples(3 * SECOND));
    let recording = file("captions.wav", &sound);
    let child =
        parley(&["stream", &recording, "--session", "demo", "--language", "en", "--url", &server.url])
            .spawn()
            .unwrap();
    let mut peer = server.accept().await;
    assert!(
        peer.request.starts_with("/api/realtime/transcribe?sessionSlug=demo&token=ey"),
        "{}",
        peer.request
    );
    assert!(!peer.request.contains("since"));
    peer.say(json!({"type":"connected","sessionSlug":"demo","ts":1})).await;
    let init = peer.open("s").await;
    assert_eq!(init, json!({"type":"init","encoding":"wav","language":"en","partials":true}));
    let (_, sent) = peer.expect("stop").await;
    assert_eq!(sent, sound);
    peer.say(json!({"type":"warning","message":"a little quiet"})).await;
    peer.say(caption("transcript_partial", "s", 1, 0, 0.5, "It was")).await;
    peer.say(caption("transcript_final", "other", 1, 1, 0.5, "Somebody else.")).await;
    peer.say(caption("transcript_final", "s", 1, 2, 0.5, "It was the best of times.")).await;
    peer.say(caption("transcript_final", "s", 1, 2, 0.5, "It was the best of times.")).await;
    peer.say(json!({"type":"ack","stream":"s","samples":48_000})).await;
    peer.say(json!({"type":"stopped","stream":"s","samples":48_000})).await;
    // Finals come by another road than `stopped`.
    peer.say(caption("transcript_final", "s", 2, 3, 62.25, "It was\u{1b}[2J the worst.")).await;
    let said = end(child).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(
        said.out,
        "  0:00.5  It was the best of times.\n  1:02.3  It was [2J the worst.\n\nIt was the best of times. It was [2J the worst.\n"
    );
    assert!(said.err.contains("the server warns: a little quiet"), "{}", said.err);
    assert!(said.err.contains("3.0 s of sound, 2 segments, first caption "), "{}", said.err);
}

#[tokio::test]
async fn no_more_than_the_window_is_sent_without_an_acknowledgement() {
    let server = Server::start().await;
    let sound = samples(40 * SECOND);
    let recording = file("window.raw", &sound);
    let child =
        parley(&["stream", &recording, "--session", "demo", "--json", "--url", &server.url]).spawn().unwrap();
    let mut peer = server.accept().await;
    let init = peer.open("s").await;
    assert_eq!(
        (&init["encoding"], &init["sampleRate"], &init["channels"]),
        (&json!("pcm_s16le"), &json!(16_000), &json!(1))
    );
    let mut sent = peer.sound(25 * SECOND).await;
    assert_eq!(sent.len(), 25 * SECOND);
    assert_eq!(peer.sound_before_pong().await, 0, "the window is full");
    peer.say(json!({"type":"ack","stream":"another","samples":400_000})).await;
    assert_eq!(peer.sound_before_pong().await, 0, "another stream's acknowledgement is not ours");
    peer.say(json!({"type":"ack","stream":"s","samples":80_000})).await;
    sent.extend(peer.sound(5 * SECOND).await);
    assert_eq!(peer.sound_before_pong().await, 0, "the window is full again");
    // A stored final acknowledges as well: it ends at 20 s.
    peer.say(caption("transcript_final", "s", 1, 1, 19.0, "Hello.")).await;
    sent.extend(peer.expect("stop").await.1);
    assert_eq!(sent, sound);
    peer.say(json!({"type":"stopped","stream":"s","samples":640_000})).await;
    let said = end(child).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    let lines: Vec<serde_json::Value> =
        said.out.lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    assert_eq!(lines[0]["text"], "Hello.");
    assert_eq!((&lines[1]["type"], &lines[1]["transcript"]), (&json!("summary"), &json!("Hello.")));
    assert_eq!((&lines[1]["audioSeconds"], &lines[1]["segments"]), (&json!(40.0), &json!(1)));
    assert!(lines[1]["firstCaptionMs"].is_u64());
}

#[tokio::test]
async fn a_lost_connection_resumes_its_stream_and_sends_nothing_twice() {
    for (name, encoding) in [("resumed.raw", "pcm_s16le"), ("resumed.wav", "wav")] {
        let server = Server::start().await;
        let sound = samples(10 * SECOND);
        let is_raw = encoding == "pcm_s16le";
        let recording = file(name, &if is_raw { sound.clone() } else { wav(&sound) });
        let child =
            parley(&["stream", &recording, "--session", "demo", "--url", &server.url]).spawn().unwrap();
        let mut peer = server.accept().await;
        assert!(peer.open("one").await["resume"].is_null());
        peer.sound(6 * SECOND).await;
        peer.say(caption("transcript_final", "one", 1, 7, 1.0, "First.")).await;
        peer.say(json!({"type":"ack","stream":"one","samples":48_000})).await;
        peer.sound_before_pong().await;
        drop(peer);

        // Two seconds more are stored than the client knows of, and one more is here.
        let mut peer = server.accept().await;
        let init = peer.resume("one", 80_000, 96_000).await;
        assert_eq!(
            (&init["encoding"], &init["resume"]),
            (&json!(encoding), &json!({"stream":"one","acked":48_000}))
        );
        peer.sound(SECOND).await;
        drop(peer);

        // The server was restarted, so that it has no more than what is stored.
        let mut peer = server.accept().await;
        let init = peer.resume("one", 80_000, 80_000).await;
        assert_eq!(init["resume"], json!({"stream":"one","acked":80_000}));
        let (_, sent) = peer.expect("stop").await;
        let (header, rest) = sent.split_at(if is_raw { 0 } else { 44 });
        assert!(header.is_empty() || header[40..] == [0xFF; 4]);
        assert_eq!(rest, &sound[5 * SECOND..]);
        drop(peer);

        // Everything was sent, but nobody has said that it is stored.
        let mut peer = server.accept().await;
        peer.resume("one", 144_000, 160_000).await;
        let (_, sent) = peer.expect("stop").await;
        let again = if is_raw { &sound[9 * SECOND..] } else { &[] };
        assert_eq!(&sent[sent.len().min(header.len())..], again, "{name}");
        peer.say(caption("transcript_final", "one", 2, 8, 4.001, "Second.")).await;
        peer.say(json!({"type":"stopped","stream":"one","samples":160_000})).await;
        let said = end(child).await;
        assert_eq!(said.code, Some(0), "{}", said.err);
        assert_eq!(said.out, "  0:01.0  First.\n  0:04.0  Second.\n\nFirst. Second.\n");
        assert!(said.err.contains("10.0 s of sound, 2 segments"), "{}", said.err);
    }
}

#[tokio::test]
async fn a_server_that_knows_the_stream_no_more_gets_what_was_not_acknowledged() {
    let server = Server::start().await;
    let sound = samples(10 * SECOND);
    let recording = file("lost.wav", &wav(&sound));
    let child = parley(&["stream", &recording, "--session", "demo", "--url", &server.url]).spawn().unwrap();
    let mut peer = server.accept().await;
    peer.open("one").await;
    peer.sound(6 * SECOND).await;
    peer.say(caption("transcript_final", "one", 1, 7, 1.0, "First.")).await;
    peer.say(json!({"type":"ack","stream":"one","samples":48_000})).await;
    // Once the client answers it has read the acknowledgement. Then the server is gone without a word.
    peer.sound_before_pong().await;
    drop(peer);

    let mut peer = server.accept().await;
    assert!(peer.request.ends_with("&since=7"), "{}", peer.request);
    // A final that was missed meanwhile covers another two seconds.
    peer.say(caption("transcript_final", "one", 2, 8, 4.001, "Second.")).await;
    peer.open("two").await;
    let (_, sent) = peer.expect("stop").await;
    let (header, rest) = sent.split_at(44);
    assert_eq!(&header[40..], &[0xFF; 4], "a WAV that begins in the middle does not know its length");
    assert_eq!(rest, &sound[5 * SECOND..]);
    peer.say(caption("transcript_final", "two", 1, 9, 1.5, "Third.")).await;
    peer.say(json!({"type":"stopped","stream":"two","samples":80_000})).await;
    let said = end(child).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert_eq!(said.out, "  0:01.0  First.\n  0:04.0  Second.\n  0:06.5  Third.\n\nFirst. Second. Third.\n");
    assert!(
        said.err.contains("the connection was lost") && said.err.contains("trying again in"),
        "{}",
        said.err
    );
    assert!(said.err.contains("10.0 s of sound, 3 segments"), "{}", said.err);
}

#[tokio::test]
async fn a_container_cannot_be_continued_and_the_way_out_is_named() {
    let server = Server::start().await;
    let mut ogg = b"OggS".to_vec();
    ogg.extend(samples(SECOND));
    let recording = file("lost.ogg", &ogg);
    let child = parley(&["stream", &recording, "--session", "demo", "--url", &server.url]).spawn().unwrap();
    let mut peer = server.accept().await;
    assert_eq!(peer.open("one").await["encoding"], "ogg");
    peer.sound(100).await;
    peer.close(1001, "Server is restarting, reconnect").await;
    let said = end(child).await;
    assert_eq!(said.code, Some(1));
    assert!(
        said.err.contains("cannot be continued in the middle") && said.err.contains("ffmpeg"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn a_busy_server_is_asked_again() {
    let server = Server::start().await;
    let recording = file("busy.wav", &wav(&samples(SECOND)));
    let child = parley(&["stream", &recording, "--session", "demo", "--url", &server.url]).spawn().unwrap();
    let mut peer = server.accept().await;
    peer.expect("init").await;
    peer.say(json!({"type":"error","code":"overloaded","message":"all workers are taken","retryAfterMs":1}))
        .await;
    peer.close(1013, "busy").await;
    let mut peer = server.accept().await;
    peer.open("s").await;
    assert_eq!(peer.expect("stop").await.1.len(), SECOND + 44);
    peer.say(json!({"type":"stopped","stream":"s","samples":16_000})).await;
    let said = end(child).await;
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(
        said.err.contains("the server is busy (close code 1013: all workers are taken); trying again"),
        "{}",
        said.err
    );
}

#[tokio::test]
async fn refusals_end_it_with_words() {
    let recording = file("refused.wav", &wav(&samples(SECOND)));
    for (code, says) in
        [(1008, "parley token"), (1007, "cannot read this sound"), (1000, "ended the connection")]
    {
        let server = Server::start().await;
        let child =
            parley(&["stream", &recording, "--session", "demo", "--url", &server.url]).spawn().unwrap();
        let mut peer = server.accept().await;
        peer.expect("init").await;
        peer.say(json!({"type":"error","code":"x","message":"because"})).await;
        peer.close(code, "reason").await;
        let said = end(child).await;
        assert_eq!(said.code, Some(1));
        assert!(said.err.contains(says) && said.err.contains("because"), "{code}: {}", said.err);
        assert!(!said.err.contains("eyJ"), "no token in what is printed: {}", said.err);
    }

    let server = Server::start().await;
    let child =
        parley(&["stream", &recording, "--session", "demo", "--url", &server.url, "--token", "t"]).spawn();
    let mut stream = server.accept_tcp().await;
    let mut request = vec![0; 4096];
    let count = soon(stream.read(&mut request)).await.unwrap();
    assert!(String::from_utf8_lossy(&request[..count]).contains("token=t "));
    soon(stream.write_all(b"HTTP/1.1 401 Unauthorized\r\nContent-Length: 0\r\n\r\n")).await.unwrap();
    let said = end(child.unwrap()).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("refuses the token (HTTP 401)"), "{}", said.err);

    let free = Server::start().await.url;
    let said =
        end(parley(&["stream", &recording, "--session", "demo", "--url", &free]).spawn().unwrap()).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("nothing listens at") && said.err.contains("make run"), "{}", said.err);
}

#[tokio::test]
async fn an_expired_token_is_replaced_where_it_was_made() {
    let recording = file("expired.wav", &wav(&samples(SECOND)));
    let server = Server::start().await;
    let child = parley(&["stream", &recording, "--session", "demo", "--url", &server.url]).spawn().unwrap();
    let mut peer = server.accept().await;
    peer.open("one").await;
    peer.close(4003, "Token expired").await;
    let mut peer = server.accept().await;
    peer.open("two").await;
    peer.expect("stop").await;
    peer.say(json!({"type":"stopped","stream":"two","samples":16_000})).await;
    assert_eq!(end(child).await.code, Some(0));

    let child =
        parley(&["stream", &recording, "--session", "demo", "--url", &server.url, "--token", "t"]).spawn();
    let mut peer = server.accept().await;
    peer.open("one").await;
    peer.close(4003, "Token expired").await;
    let said = end(child.unwrap()).await;
    assert_eq!(said.code, Some(1));
    assert!(said.err.contains("give a new one with --token"), "{}", said.err);
}

#[tokio::test]
async fn ctrl_c_ends_a_microphone_and_keeps_its_last_words() {
    let server = Server::start().await;
    let mut command = parley(&["stream", "-", "--session", "demo", "--url", &server.url]);
    let mut child = command.stdin(Stdio::piped()).spawn().unwrap();
    let mut microphone = child.stdin.take().unwrap();
    soon(microphone.write_all(&samples(SECOND))).await.unwrap();
    let mut peer = server.accept().await;
    assert_eq!(peer.open("s").await["encoding"], "pcm_s16le");
    let mut sent = peer.sound(SECOND).await;
    signal(&child, "INT").await;
    sent.extend(peer.expect("stop").await.1);
    assert_eq!(sent, samples(SECOND));
    peer.say(caption("transcript_final", "s", 1, 1, 0.0, "Goodbye.")).await;
    peer.say(json!({"type":"stopped","stream":"s","samples":16_000})).await;
    let said = end(child).await;
    drop(microphone);
    assert_eq!(said.code, Some(0), "{}", said.err);
    assert!(said.out.ends_with("\n\nGoodbye.\n"), "{}", said.out);
}

#[tokio::test]
async fn at_real_time_sound_goes_in_tenths_of_a_second() {
    let server = Server::start().await;
    let sound = wav(&samples(SECOND / 2));
    let recording = file("realtime.wav", &sound);
    let arguments =
        ["stream", &recording, "--session", "demo", "--realtime", "--no-progress", "--url", &server.url];
    let child = parley(&arguments).spawn().unwrap();
    let mut peer = server.accept().await;
    peer.open("s").await;
    assert_eq!(peer.piece().await, sound[..44]);
    for _ in 0..5 {
        assert_eq!(peer.piece().await.len(), SECOND / 10);
    }
    peer.expect("stop").await;
    peer.say(json!({"type":"stopped","samples":8_000})).await;
    let said = end(child).await;
    assert_eq!((said.code, said.out.as_str()), (Some(0), ""), "{}", said.err);
    assert!(said.err.contains("0.5 s of sound, 0 segments, no captions"), "{}", said.err);
}

#[tokio::test]
async fn in_a_terminal_the_open_caption_is_rewritten_and_the_finished_one_stays() {
    let server = Server::start().await;
    let recording = file("terminal.wav", &wav(&samples(SECOND / 2)));
    let line =
        format!("{} stream {recording} --session demo --url {}", env!("CARGO_BIN_EXE_parley"), server.url);
    // `script` runs a command in a terminal of its own.
    let mut child = tokio::process::Command::new("script")
        .args(["-qefc", &line, "/dev/null"])
        .env("TRANSCRIPTION_JWT_SECRET", SECRET)
        .env("TERM", "xterm")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .kill_on_drop(true)
        .spawn()
        .unwrap();
    let mut terminal = child.stdout.take().unwrap();
    let mut peer = server.accept().await;
    peer.open("s").await;
    peer.expect("stop").await;
    let mut open = caption("transcript_partial", "s", 1, 0, 0.5, "It was the beast");
    open["stable"] = 10.into();
    peer.say(open).await;
    let mut shown = Vec::new();
    while !String::from_utf8_lossy(&shown).contains("It was the\u{1b}[2m beast\u{1b}[0m") {
        assert_ne!(
            soon(terminal.read_buf(&mut shown)).await.unwrap(),
            0,
            "{}",
            String::from_utf8_lossy(&shown)
        );
    }
    peer.say(caption("transcript_final", "s", 1, 1, 0.5, "It was the best of times.")).await;
    peer.say(json!({"type":"stopped","stream":"s","samples":8_000})).await;
    shown.clear();
    soon(terminal.read_to_end(&mut shown)).await.unwrap();
    let shown = String::from_utf8_lossy(&shown);
    assert!(shown.contains("  0:00.5  It was the best of times.\r\n"), "{shown}");
    assert!(shown.contains("\r\nIt was the best of times.\r\nparley: 0.5 s of sound"), "{shown}");
    assert!(soon(child.wait()).await.unwrap().success());
}
