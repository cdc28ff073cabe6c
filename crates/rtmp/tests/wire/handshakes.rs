use hmac::{Hmac, KeyInit, Mac};
use rtmp::handshake::{ClientHandshake, HandshakeError, PACKET_BYTES, ServerHandshake};

use sha2::Sha256;

use crate::made::hello;

/// Where the digest of a C1 of Flash Player 9 lies by either scheme, and what it is; made by another program from the
/// bytes `index % 251` with the version 9.0.124.2 in place. The last is the key that S2 is signed with.
const SIGNED: [(usize, [u8; 32], [u8; 32]); 2] = [
    (
        50,
        [
            0x80, 0x36, 0x66, 0x46, 0xd6, 0x16, 0xcc, 0x4a, 0xfc, 0xa0, 0xa3, 0xb0, 0xca, 0x9d, 0xc8, 0xd6,
            0xf9, 0x14, 0xfc, 0x6b, 0xc2, 0xb2, 0xdf, 0xce, 0x44, 0x92, 0x9a, 0x6a, 0x68, 0x6e, 0xf2, 0xc8,
        ],
        [
            0x66, 0x88, 0xab, 0x37, 0x3a, 0x79, 0x26, 0x58, 0x55, 0x42, 0x46, 0xf1, 0x5f, 0x07, 0xcc, 0x5e,
            0xca, 0xda, 0xd1, 0xd6, 0x54, 0x1e, 0x34, 0x37, 0x84, 0x61, 0x0e, 0xe4, 0x7e, 0xe9, 0xca, 0x46,
        ],
    ),
    (
        858,
        [
            0x5d, 0x4b, 0xc0, 0xc2, 0x65, 0x7c, 0x72, 0x18, 0x99, 0x38, 0xe4, 0x93, 0xd8, 0x00, 0xfc, 0x1c,
            0x21, 0xa0, 0xd6, 0x2f, 0x75, 0x9d, 0xf4, 0xc9, 0x4a, 0x68, 0xf6, 0xd9, 0xdf, 0xad, 0xa0, 0xe5,
        ],
        [
            0xe4, 0xb7, 0x55, 0x6d, 0xbf, 0xa9, 0xf7, 0x68, 0xc6, 0x84, 0x10, 0x98, 0x0b, 0x8b, 0x69, 0x94,
            0xdf, 0xcc, 0x0e, 0xb4, 0x63, 0x78, 0x22, 0x8a, 0x5c, 0xf3, 0x84, 0xfc, 0xda, 0x2c, 0x67, 0xe2,
        ],
    ),
];

fn signed_c1(digest_at: usize, digest: [u8; 32]) -> Vec<u8> {
    let mut c1: Vec<u8> = (0..PACKET_BYTES).map(|index| (index % 251) as u8).collect();
    c1[4..8].copy_from_slice(&[9, 0, 124, 2]);
    c1[digest_at..digest_at + 32].copy_from_slice(&digest);
    c1
}

fn converse(bytes: &[u8], piece: usize) -> Result<(bool, Vec<u8>), HandshakeError> {
    let (mut server, mut output, mut done) = (ServerHandshake::new(1), Vec::new(), false);
    for mut input in bytes.chunks(piece) {
        done = server.receive(&mut input, &mut output)?;
    }
    Ok((done, output))
}

#[test]
fn a_simple_client_gets_its_own_packet_back() {
    let hello = hello();
    for piece in [1, 2, 700, 1536, 1537, hello.len()] {
        let (done, output) = converse(&hello, piece).unwrap();
        assert!(done);
        assert_eq!(output.len(), 1 + 2 * PACKET_BYTES);
        assert_eq!(output[0], 3);
        assert_eq!(output[1..9], [0; 8]);
        assert_eq!(output[1 + PACKET_BYTES..], hello[1..=PACKET_BYTES]);
    }
}

fn hmac(key: &[u8], bytes: &[u8]) -> Vec<u8> {
    let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
    mac.update(bytes);
    mac.finalize().into_bytes().to_vec()
}

#[test]
fn a_client_that_signs_gets_signatures() {
    for (digest_at, digest, s2_key) in SIGNED {
        let bytes = [vec![3], signed_c1(digest_at, digest), vec![0; PACKET_BYTES]].concat();
        let (done, output) = converse(&bytes, 1_000).unwrap();
        assert!(done);
        let (s1, s2) = output[1..].split_at(PACKET_BYTES);
        assert!(s1[4] >= 3, "the version says that S1 is signed");
        let base = if digest_at < 772 { 8 } else { 772 };
        let at = base + 4 + s1[base..base + 4].iter().map(|byte| usize::from(*byte)).sum::<usize>() % 728;
        let without = [&s1[..at], &s1[at + 32..]].concat();
        assert_eq!(s1[at..at + 32], hmac(b"Genuine Adobe Flash Media Server 001", &without));
        let (random, signature) = s2.split_at(PACKET_BYTES - 32);
        assert_eq!(signature, hmac(&s2_key, random));
    }
}

#[test]
fn a_wrong_digest_is_answered_as_a_simple_client() {
    for (digest_at, mut digest, _) in SIGNED {
        digest[31] ^= 1;
        let c1 = signed_c1(digest_at, digest);
        let (_, output) = converse(&[vec![3], c1.clone()].concat(), 1_000).unwrap();
        assert_eq!(output[1 + PACKET_BYTES..], c1);
    }
}

#[test]
fn every_cut_of_a_handshake_waits_for_the_rest() {
    let hello = hello();
    for cut in 0..hello.len() {
        let (done, output) = converse(&hello[..cut], usize::MAX).unwrap();
        assert!(!done);
        assert_eq!(output.is_empty(), cut < 1 + PACKET_BYTES, "{cut}");
    }
}

#[test]
fn what_follows_the_handshake_is_left() {
    let bytes = [hello(), vec![7; 5]].concat();
    let (mut server, mut output, mut input) = (ServerHandshake::new(1), Vec::new(), bytes.as_slice());
    assert_eq!(server.receive(&mut input, &mut output), Ok(true));
    assert_eq!(input, [7; 5]);
}

#[test]
fn any_other_first_byte_is_refused() {
    for first in (0..=255).filter(|first| *first != 3) {
        assert_eq!(converse(&[first], 1), Err(HandshakeError::Version), "{first}");
    }
}

#[test]
fn the_two_sides_of_ours_agree() {
    for piece in [1, 100, 5_000] {
        let (mut to_server, mut to_client) = (Vec::new(), Vec::new());
        let mut client = ClientHandshake::new(2, &mut to_server);
        let mut server = ServerHandshake::new(3);
        let (mut client_done, mut server_done) = (false, false);
        while !(client_done && server_done) {
            for mut input in std::mem::take(&mut to_server).chunks(piece) {
                server_done = server.receive(&mut input, &mut to_client).unwrap();
            }
            for mut input in std::mem::take(&mut to_client).chunks(piece) {
                client_done = client.receive(&mut input, &mut to_server).unwrap();
            }
        }
    }
}

#[test]
fn a_client_refuses_what_is_no_server() {
    let mut output = Vec::new();
    let mut client = ClientHandshake::new(2, &mut output);
    assert_eq!(client.receive(&mut b"HTTP/1.1 400".as_slice(), &mut output), Err(HandshakeError::Version));
}
