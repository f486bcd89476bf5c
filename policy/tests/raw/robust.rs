//! The fuzz target's corpus, and many mutations of it, through the same function.

use std::fs;
use std::path::Path;

use crate::judge::judge;
use crate::numbers::Numbers;

fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/raw");
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What the octets of headers are likely to be.
const LIKELY: [u8; 24] = [
    0, 1, 4, 5, 6, 7, 8, 17, 20, 28, 40, 41, 43, 44, 51, 58, 60, 0x45, 0x46, 0x60, 0x80, 0x86,
    0xdd, 0xff,
];

fn mutate(mut octets: Vec<u8>, other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    for _ in 0..=numbers.below(3) {
        // Mostly among the headers.
        let at = numbers.below(octets.len().min(60));
        match numbers.below(7) {
            0 => octets.truncate(numbers.below(octets.len() + 1)),
            1 => octets.resize(octets.len() + numbers.below(8), 0),
            2 => {
                let from = numbers.below(other.len());
                octets.truncate(at);
                octets.extend(&other[from..]);
            }
            3 => drop(octets.splice(at..at, other.iter().take(14).copied())),
            4 => {
                if let Some(octet) = octets.get_mut(at) {
                    *octet ^= 1 << numbers.below(8);
                }
            }
            5 => {
                if let Some(octet) = octets.get_mut(at) {
                    *octet = LIKELY[numbers.below(LIKELY.len())];
                }
            }
            _ => {
                if let Some(octet) = octets.get_mut(at) {
                    *octet = u8::try_from(numbers.below(256)).unwrap();
                }
            }
        }
    }
    octets
}

#[test]
fn the_corpus_is_read_as_another_parser_reads_it() {
    let corpus = corpus();
    assert!(corpus.len() >= 60, "the corpus is in the tree");
    corpus.iter().for_each(|octets| judge(octets));
}

#[test]
fn mutations_of_the_corpus_are_read_as_another_parser_reads_them() {
    let corpus = corpus();
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let rounds = std::env::var("MUTATIONS").map_or(200_000, |rounds| rounds.parse().unwrap());
    for _ in 0..rounds {
        let (one, other) = (numbers.below(corpus.len()), numbers.below(corpus.len()));
        let octets = mutate(corpus[one].clone(), &corpus[other], &mut numbers);
        if let Err(panic) = std::panic::catch_unwind(|| judge(&octets)) {
            eprintln!("keep this in the corpus:\n{octets:02x?}");
            std::panic::resume_unwind(panic);
        }
    }
}
