//! Sound of every codec and program arrives whole, in its place.

use model::Clock;
use rtmp::ClientEvent;
use testkit::{ScratchFolder, eventually, recording};
use tokio::process::Command;

use crate::{
    encoder::Encoder,
    stage::{Setup, Stage},
};

/// The best normalised correlation of `heard` against `original` when it is up to 200 ms late.
fn likeness(original: &[i16], heard: &[i16]) -> f64 {
    let at = |late: usize| {
        let (mut both, mut left, mut right) = (0.0, 1e-9, 1e-9);
        for (a, b) in original.iter().zip(heard.get(late..).unwrap_or_default()) {
            let (a, b) = (f64::from(*a), f64::from(*b));
            both += a * b;
            left += a * a;
            right += b * b;
        }
        both / f64::sqrt(left * right)
    };
    (0..3_200).map(at).max_by(f64::total_cmp).unwrap()
}

async fn run(program: &str, arguments: &[&str]) {
    let output = Command::new(program).args(arguments).kill_on_drop(true).output().await;
    let output = output.unwrap_or_else(|error| panic!("{program} is needed: {error}"));
    assert!(output.status.success(), "{program}: {}", String::from_utf8_lossy(&output.stderr));
}

#[tokio::test]
async fn a_stream_begins_when_its_sound_does() {
    let stage = Stage::start().await;
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    let published = Clock::system().now();
    // A configuration is no sound yet.
    encoder.tag(&[0xaf, 0, 0x12, 0x10]).await;
    let later = published.after(std::time::Duration::from_millis(300));
    eventually("it is silent for a while", async || Clock::system().now() > later).await;
    encoder.sound(500).await;
    eventually("it is heard", async || !stage.worker.heard().is_empty()).await;
    let started_at = stage.worker.ears(|ears| ears.sources[0].started_at);
    assert!(started_at >= later, "{started_at:?} is sooner than {later:?}");
}

#[tokio::test]
async fn ffmpeg_pushes_every_codec_it_knows() {
    let recording = recording("jfk");
    let samples = recording.samples();
    let path = recording.path.display().to_string();
    for (codec, least) in [
        ("-c:a aac -ar 44100 -ac 2 -b:a 128k", 0.95),
        ("-c:a aac -ar 48000 -ac 1 -b:a 96k", 0.95),
        ("-c:a libmp3lame -ar 44100 -b:a 96k", 0.95),
        ("-c:a libmp3lame -ar 22050 -ac 2 -b:a 64k", 0.95),
        ("-c:a pcm_alaw -ar 8000", 0.9),
        ("-c:a pcm_mulaw -ar 8000", 0.9),
        ("-c:a pcm_s16le -ar 44100 -ac 2", 0.99),
    ] {
        let stage = Stage::start().await;
        let url = stage.url(stage.session.as_str());
        let codec: Vec<&str> = codec.split(' ').collect();
        let before = ["-nostdin", "-v", "error", "-i", &path];
        run("ffmpeg", &[&before[..], &codec, &["-f", "flv", &url]].concat()).await;
        let whole = async || {
            stage
                .worker
                .heard()
                .first()
                .is_some_and(|heard| heard.finalized == 1 && heard.samples.len() + 3_200 > samples.len())
        };
        eventually("the sound is there, and its utterance ended", whole).await;
        let heard = stage.worker.heard().remove(0);
        let likeness = likeness(&samples, &heard.samples);
        assert!(likeness > least, "{codec:?}: {likeness}");
        assert!(heard.samples.len() < samples.len() + 3_200, "{codec:?}: {}", heard.samples.len());
        let source = stage.worker.ears(|ears| ears.sources.remove(0));
        assert_eq!((&source.session, source.speaker.identity.as_str()), (&stage.session, "room"));
    }
}

#[tokio::test]
async fn gaps_are_silence_and_jumps_are_none() {
    let stage = Stage::start().await;
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    encoder.sound(1_000).await;
    encoder.skip(2_000);
    encoder.sound(1_000).await;
    encoder.skip(3_000_000_000);
    encoder.sound(1_000).await;
    encoder.leave().await;
    let all = async || stage.worker.heard().first().is_some_and(|heard| heard.finalized == 1);
    eventually("it is heard", all).await;
    let heard = stage.worker.heard().remove(0).samples;
    assert!((80_000..82_400).contains(&heard.len()), "{}", heard.len());
    let per = heard.chunks(1_600).map(|part| part.iter().map(|sample| sample.unsigned_abs()).max().unwrap());
    let per: Vec<u16> = per.collect();
    let loud = |from: usize| heard[from..from + 1_600].iter().any(|sample| sample.unsigned_abs() > 1_000);
    assert!(loud(8_000) && !loud(17_600) && !loud(44_800) && loud(49_600), "{per:?}");
    assert!(stage.metric("rtmp_ingest_gaps_total").await >= 1.0);
    assert!(stage.metric("rtmp_ingest_timestamp_rebases_total").await >= 1.0);
}

#[tokio::test]
async fn sound_that_cannot_be_decoded_is_refused_and_counted() {
    let stage = Stage::start().await;
    let mut encoder = Encoder::publish(stage.address(), stage.session.as_str()).await;
    // `SoundFormat` 11: Speex.
    encoder.tag(&[0xb2, 0, 0]).await;
    assert_eq!(encoder.event().await, Some(ClientEvent::Unpublished));
    assert_eq!(encoder.event().await, None, "and it is closed");
    assert!(stage.metric("rtmp_ingest_refusals_total{reason=\"speex\"}").await >= 1.0);
}

#[tokio::test]
async fn rtmps_needs_no_nginx() {
    let folder = ScratchFolder::new("certificate");
    let file = |name: &str| folder.path().join(name).display().to_string();
    let (chain, key) = (file("chain.pem"), file("key.pem"));
    let names = "subjectAltName=DNS:localhost,IP:127.0.0.1";
    let made =
        ["req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"];
    let into = ["-subj", "/CN=localhost", "-addext", names, "-keyout", &key, "-out", &chain];
    run("openssl", &[&made[..], &into].concat()).await;
    let stage = Setup::new().await.set("RTMP_TLS_CERT", &chain).set("RTMP_TLS_KEY", &key).start().await;
    let url = format!("rtmps://{}/live/{}", stage.running.tls_address.unwrap(), stage.session);
    let recording = recording("jfk");
    let path = recording.path.display().to_string();
    run("ffmpeg", &["-nostdin", "-v", "error", "-i", &path, "-c:a", "aac", "-f", "flv", &url]).await;
    let whole = async || stage.worker.heard().first().is_some_and(|heard| heard.samples.len() > 170_000);
    eventually("it is heard", whole).await;
}
