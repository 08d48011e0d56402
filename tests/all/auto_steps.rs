//! `steps: auto`: chosen while a plan is made, told in words, and refused where there is nothing to compare.

use crate::cli::{card, flowgauge, folder, refused, samples, write};

/// Solvers of fixed steps, all of them, by the listed defaults.
fn fixed() -> Vec<String> {
    let listed = flowgauge::solve::Solver::defaults().into_iter();
    listed
        .filter(|s| s.fixed_evaluations().is_some())
        .map(|s| s.name().to_owned())
        .collect()
}

fn config(solvers: &str) -> String {
    let model = card("mixture");
    format!(
        "name: auto\nestimators: [exact]\nsolvers: [{solvers}]\n\
         likelihood:\n  - {{model: {model}, data: x.npy, profile: 0, budget: false}}\n"
    )
}

#[test]
fn plans_have_the_steps_that_were_chosen() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(3, 8));
    let solvers: Vec<String> = fixed()
        .iter()
        .map(|name| format!("{{{name}: {{steps: auto, tol: 1.0}}}}"))
        .collect();
    write(at, "auto.yaml", config(&solvers.join(", ")));
    let plan = flowgauge(at, &["plan", "auto.yaml", "--no-timing"]);
    plan.is(0);
    for name in fixed() {
        assert!(
            plan.stdout.contains(&format!("{name} takes ")),
            "{name}\n{}",
            plan.stdout
        );
        assert!(
            plan.stdout.contains("nats (tol 1) on the first 3 samples"),
            "{}",
            plan.stdout
        );
        assert!(
            plan.stdout.contains(&format!("{name}(steps=")),
            "{name}\n{}",
            plan.stdout
        );
    }
    flowgauge(at, &["run", "auto.yaml", "--out", "run"])
        .is(0)
        .says(&["agree within"]);
    let planned = std::fs::read_to_string(at.join("run/plan.json")).expect("a plan");
    assert_eq!(
        planned.matches("\"gap\"").count(),
        fixed().len(),
        "{planned}"
    );
    // The same again goes on from what was chosen, whatever the machine.
    let again = flowgauge(
        at,
        &[
            "run",
            "auto.yaml",
            "--out",
            "run",
            "--batch",
            "1",
            "--threads",
            "1",
        ],
    );
    again.is(0).says(&["agree within"]);
    let other = [
        "plan",
        "auto.yaml",
        "--no-timing",
        "--batch",
        "1",
        "--threads",
        "1",
    ];
    let other = flowgauge(at, &other);
    assert_eq!(other.is(0).stdout, plan.stdout);
}

#[test]
fn a_single_command_chooses_its_steps() {
    let folder = folder();
    let at = folder.path();
    write(at, "x.npy", samples(3, 8));
    let model = card("mixture");
    let likelihood = |solver: &str, divergence: &str| {
        [
            "likelihood",
            "--model",
            &model,
            "--data",
            "x.npy",
            "--divergence",
            divergence,
            "--solver",
            solver,
        ]
        .iter()
        .chain(&["--out", "out.csv"])
        .map(|s| (*s).to_owned())
        .collect::<Vec<String>>()
    };
    for name in fixed() {
        let args = likelihood(&format!("{{{name}: {{steps: auto, tol: 1.0}}}}"), "exact");
        let args: Vec<&str> = args.iter().map(String::as_str).collect();
        flowgauge(at, &args)
            .is(0)
            .says(&[&format!("{name} takes "), "agree within"]);
        let rows = std::fs::read_to_string(at.join("out.csv")).expect("a table");
        // The last column is `solver_error`, which fixed steps have.
        assert!(
            rows.lines().skip(1).all(|line| !line.ends_with(',')),
            "{name}: {rows}"
        );
        std::fs::remove_file(at.join("out.csv")).expect("a table");
    }
    for (solver, divergence, words) in [
        (
            "{euler: {steps: auto, tol: 1.0e-9}}",
            "exact",
            vec!["--solver euler", "steps: auto", "tol"],
        ),
        (
            "{heun: {steps: 8, tol: 0.1}}",
            "exact",
            vec!["--solver heun", "tol", "steps: auto"],
        ),
        (
            "{heun: {steps: auto, tol: 0}}",
            "exact",
            vec!["tol is 0", "above 0"],
        ),
        (
            "{heun: {steps: atuo}}",
            "exact",
            vec!["steps", "atuo", "auto"],
        ),
    ] {
        let args = likelihood(solver, divergence);
        refused(
            at,
            &args.iter().map(String::as_str).collect::<Vec<_>>(),
            &words,
        );
    }
    let sample = [
        "sample",
        "--model",
        &model,
        "--sampler",
        "{heun: {steps: auto}}",
        "--count",
        "2",
        "--out",
        "y.npy",
    ];
    refused(at, &sample, &["steps: auto, expected a whole number"]);
}
