//! The fuzz target's corpus, and many mutations of it, through the same function.

use std::fs;
use std::path::Path;

use crate::judge::judge;
use crate::numbers::Numbers;

fn corpus() -> Vec<Vec<u8>> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz/corpus/policy");
    let mut paths: Vec<_> = fs::read_dir(directory)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    paths.iter().map(|path| fs::read(path).unwrap()).collect()
}

/// What tends to break parsers of text.
const PIECES: [&str; 24] = [
    "\"",
    "'",
    "\"\"\"",
    "[",
    "]",
    "[[",
    "]]",
    "{",
    "}",
    "=",
    "\n",
    "\r\n",
    "#",
    ",",
    ".",
    "\\",
    "\u{0}",
    "ä",
    "-",
    "99999999999999999999",
    "--- slices/a.toml\n",
    "[ports]\n",
    "0x",
    "\t",
];

fn mutate(mut bytes: Vec<u8>, other: &[u8], numbers: &mut Numbers) -> Vec<u8> {
    for _ in 0..=numbers.below(4) {
        let at = numbers.below(bytes.len() + 1);
        let end = (at + numbers.below(12)).min(bytes.len());
        match numbers.below(5) {
            0 => drop(bytes.drain(at..end)),
            1 => drop(bytes.splice(at..end, PIECES[numbers.below(PIECES.len())].bytes())),
            2 => drop(bytes.splice(at..at, PIECES[numbers.below(PIECES.len())].bytes())),
            3 => {
                let from = numbers.below(other.len());
                let to = (from + numbers.below(60)).min(other.len());
                drop(bytes.splice(at..end, other[from..to].iter().copied()));
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte = u8::try_from(numbers.below(128)).unwrap();
                }
            }
        }
    }
    bytes
}

#[test]
fn the_corpus_is_treated_rightly() {
    let corpus = corpus();
    assert!(corpus.len() >= 20, "the corpus is in the tree");
    corpus.iter().for_each(|bytes| judge(bytes));
}

#[test]
fn mutations_of_the_corpus_are_treated_rightly() {
    let corpus = corpus();
    let mut numbers = Numbers(0x2545_f491_4f6c_dd1d);
    let rounds = std::env::var("MUTATIONS").map_or(5_000, |rounds| rounds.parse().unwrap());
    for _ in 0..rounds {
        let (one, other) = (numbers.below(corpus.len()), numbers.below(corpus.len()));
        let bytes = mutate(corpus[one].clone(), &corpus[other], &mut numbers);
        if let Err(panic) = std::panic::catch_unwind(|| judge(&bytes)) {
            eprintln!(
                "keep this as a test:\n{:?}",
                String::from_utf8_lossy(&bytes)
            );
            std::panic::resume_unwind(panic);
        }
    }
}
