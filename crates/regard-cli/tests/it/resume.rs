//! A training run killed with SIGKILL, at any moment, ends with the same bits as one that was left alone.

use std::fs;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::thread::sleep;
use std::time::{Duration, Instant};

use tempfile::TempDir;

/// Moments of the run to kill it at, as shares of the time the whole run took.
const MOMENTS: [f64; 4] = [0.05, 0.35, 0.6, 0.9];

fn mails(folder: &Path) {
    let words = [
        "offer", "prize", "meeting", "report", "the", "about", "please", "today", "lunch",
        "winner", "our", "you",
    ];
    let mut csv = String::from("text,label\n");
    for row in 0..400_usize {
        let text: Vec<&str> = (0..9 + row % 11)
            .map(|at| words[(row * 7 + at * (row % 5 + 3)) % words.len()])
            .collect();
        let label = if text
            .iter()
            .filter(|word| ["offer", "prize", "winner"].contains(word))
            .count()
            > 2
        {
            "spam"
        } else {
            "ham"
        };
        csv += &format!("{},{label}\n", text.join(" "));
    }
    fs::write(folder.join("mails.csv"), csv).unwrap();
}

/// Starts a run in bf16, or resumes one. A run that has written its plan goes on with what it began with, whatever is asked for.
fn start(folder: &Path, out: &str, resume: bool) -> Child {
    let mut command = Command::new(env!("CARGO_BIN_EXE_regard"));
    command.current_dir(folder).args([
        "train",
        "classification",
        "--data",
        "mails.csv",
        "--out",
        out,
        "--seed",
        "3",
    ]);
    for setting in [
        "width=16",
        "heads=2",
        "pooling_heads=2",
        "bigram_buckets=512",
        "batch_rows=16",
        "epochs=6",
        "patience=6",
    ] {
        command.args(["--set", setting]);
    }
    command.args(["--model", "transformer", "--set", "checkpoint_steps=7"]);
    let training = folder.join(format!("{out}.training"));
    let planned = training.join("plan.json").exists();
    command.args(["--precision", if planned { "f32" } else { "bf16" }]);
    if resume {
        command.arg("--resume");
    }
    command
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

#[test]
fn a_run_killed_at_any_moment_and_resumed_equals_one_that_was_left_alone() {
    let folder = TempDir::new().unwrap();
    let folder = folder.path();
    mails(folder);
    let started = Instant::now();
    assert!(start(folder, "whole", false).wait().unwrap().success());
    let took = started.elapsed();
    let expected = fs::read(folder.join("whole/model.safetensors")).unwrap();
    let mut killed = 0;
    for moment in MOMENTS {
        let out = format!("killed-{moment}");
        let mut run = start(folder, &out, false);
        sleep(took.mul_f64(moment).max(Duration::from_millis(1)));
        run.kill().unwrap();
        run.wait().unwrap();
        if folder.join(&out).exists() {
            // It was faster than the first: nothing was interrupted.
            continue;
        }
        killed += 1;
        // Killed before it had made its folder, there is nothing to resume: the same command starts it.
        let resume = folder.join(format!("{out}.training")).exists();
        assert!(
            start(folder, &out, resume).wait().unwrap().success(),
            "resuming the run killed at {moment}"
        );
        let found = fs::read(folder.join(&out).join("model.safetensors")).unwrap();
        assert!(
            found == expected,
            "the run killed at {moment} ended with other weights"
        );
    }
    assert!(
        killed > 0,
        "no run was interrupted: the moments are too late"
    );
}
