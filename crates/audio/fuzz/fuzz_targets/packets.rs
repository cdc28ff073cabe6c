#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| audio_fuzz::check_packets(data));
