//! The place of this process among those that an engine started, from the engine's variables.

use super::Shard;
use super::engines::{COUNT_VARIABLE, ENGINES, Engine, FIRST_VARIABLE, Level, Places};

/// The place of a process, and how it was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct FoundShard {
    /// The shard of the process.
    pub shard: Shard,
    /// The engines with their variables, in words.
    pub source: String,
}

/// The place that one engine tells.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    engine: &'static Engine,
    /// The place, counted from 0.
    index: u64,
    /// The number of places.
    count: u64,
    /// The variables that were read, as `NAME=value`.
    read: Vec<String>,
}

impl Place {
    /// The engine with its variables, in words.
    fn describe(&self) -> String {
        format!("{} ({})", self.engine.name, self.read.join(", "))
    }
}

/// The environment, with a note of what was read.
struct Variables<'a> {
    value: &'a dyn Fn(&str) -> Option<String>,
    read: Vec<String>,
}

impl Variables<'_> {
    /// The value of a variable; `None` if it is not set or empty.
    fn get(&self, name: &str) -> Option<String> {
        (self.value)(name).filter(|value| !value.is_empty())
    }

    /// The number in a variable; `None` if it is not set.
    ///
    /// # Errors
    /// Fails if the value is no whole number from 0 to 2⁵³.
    fn number(&mut self, name: &str) -> Result<Option<u64>, String> {
        let Some(value) = self.get(name) else {
            return Ok(None);
        };
        let number = value
            .parse()
            .ok()
            .filter(|number: &u64| *number <= 1 << 53)
            .ok_or_else(|| format!("{name}={value} is no whole number of at least 0"))?;
        self.read.push(format!("{name}={value}"));
        Ok(Some(number))
    }

    /// The number in a variable that must be set.
    ///
    /// # Errors
    /// Fails if it is not set, or no number. The message names the variable.
    fn required(&mut self, engine: &Engine, name: &str) -> Result<u64, String> {
        self.number(name)?.ok_or_else(|| {
            format!(
                "{} is set, which is {}'s, but {name} is not, so that the number of shards is not \
                 known",
                engine.index, engine.name
            )
        })
    }
}

/// The shard of this process, from the variables of the engine that started it. `value` is the
/// environment.
///
/// # Errors
/// Fails if no engine is found, if a variable is missing or no number, or if variables contradict
/// one another. The message names the variables.
pub(crate) fn shard_of_environment(
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<FoundShard, String> {
    let explain = |what: String| format!("--shard auto: {what}; expected {EXPECTED}");
    let present: Vec<&'static Engine> = ENGINES
        .iter()
        .filter(|engine| is_present(engine, value))
        .collect();
    let mut found = Vec::new();
    for engine in &present {
        // What is hidden is not even read: it may lack its number.
        if !present
            .iter()
            .any(|other| other.hides.contains(&engine.name))
        {
            found.push(place_in(engine, value).map_err(explain)?);
        }
    }
    let array = place_of_level(&found, Level::Array).map_err(explain)?;
    let ranks = place_of_level(&found, Level::Ranks).map_err(explain)?;
    let used: Vec<&Place> = array.into_iter().chain(ranks).collect();
    if used.is_empty() {
        let names: Vec<&str> = ENGINES.iter().map(|engine| engine.index).collect();
        return Err(explain(format!(
            "no engine started this process: none of {} is set",
            names.join(", ")
        )));
    }
    let (mut index, mut count) = (0, 1);
    for place in &used {
        index = index * place.count + place.index;
        count *= place.count;
    }
    check_given_number(&used, count, value).map_err(explain)?;
    let words: Vec<String> = used.iter().map(|place| place.describe()).collect();
    let shard = format!("{}/{count}", index + 1)
        .parse()
        .map_err(|_| explain(format!("{count} shards are too many")))?;
    Ok(FoundShard {
        shard,
        source: words.join(" × "),
    })
}

/// What would be right, for messages.
const EXPECTED: &str = "the variables of one engine, or `--shard I/N`";

/// Whether an engine started this process.
fn is_present(engine: &Engine, value: &dyn Fn(&str) -> Option<String>) -> bool {
    let set = |name: &str| value(name).filter(|text| !text.is_empty());
    let has_index = set(engine.index).is_some_and(|text| !engine.no_index.contains(&text.as_str()));
    let is_here =
        engine.only_with.is_empty() || engine.only_with.iter().any(|name| set(name).is_some());
    has_index && is_here
}

/// The place that an engine tells which started this process.
///
/// # Errors
/// Fails if one of its variables is missing or wrong.
fn place_in(
    engine: &'static Engine,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<Place, String> {
    let mut variables = Variables {
        value,
        read: Vec::new(),
    };
    let at = variables
        .number(engine.index)?
        .ok_or_else(|| format!("{} is not set", engine.index))?;
    let (first, step, count) = match engine.places {
        Places::Number(name) => (0, 1, variables.required(engine, name)?),
        Places::Bounds {
            first,
            last,
            step,
            number,
        } => {
            let low = variables.required(engine, first)?;
            let high = variables.required(engine, last)?;
            let by = variables.number(step)?.unwrap_or(1);
            let count = range_length(engine, [low, high, by])?;
            check_number_of_indices(engine, number, count, &mut variables)?;
            (low, by, count)
        }
        Places::LastAndStep { last, step } => {
            let low = variables.number(FIRST_VARIABLE)?.unwrap_or(1);
            let high = variables.required(engine, last)?;
            let by = variables.number(step)?.unwrap_or(1);
            (low, by, range_length(engine, [low, high, by])?)
        }
        Places::Unknown => {
            let low = variables.number(FIRST_VARIABLE)?.unwrap_or(0);
            (low, 1, variables.required(engine, COUNT_VARIABLE)?)
        }
    };
    let index = at.checked_sub(first).filter(|d| d.is_multiple_of(step));
    let index = index.map(|d| d / step).filter(|i| *i < count);
    let read = variables.read;
    match index {
        Some(index) => Ok(Place {
            engine,
            index,
            count,
            read,
        }),
        None => Err(format!(
            "{}: {} contradict one another: an index of {count} from {first} on by {step} is \
             expected",
            engine.name,
            read.join(", ")
        )),
    }
}

/// The number of indices from the first to the last.
///
/// # Errors
/// Fails if there is none.
fn range_length(engine: &Engine, [first, last, step]: [u64; 3]) -> Result<u64, String> {
    match last.checked_sub(first) {
        Some(width) if step > 0 => Ok(width / step + 1),
        _ => Err(format!(
            "{}: the indices from {first} to {last} by {step} are none",
            engine.name
        )),
    }
}

/// Checks an array's own count of its indices.
///
/// # Errors
/// Fails if the array has gaps.
fn check_number_of_indices(
    engine: &Engine,
    name: Option<&str>,
    count: u64,
    variables: &mut Variables,
) -> Result<(), String> {
    let Some(name) = name else { return Ok(()) };
    match variables.number(name)? {
        Some(told) if told != count => Err(format!(
            "{}: its bounds are those of {count} indices and {name} is {told}: the array has gaps, \
             so that shards would be missing",
            engine.name
        )),
        _ => Ok(()),
    }
}

/// The one place of a level; `None` if no engine of this level was found.
///
/// # Errors
/// Fails if two engines tell different places.
fn place_of_level(found: &[Place], level: Level) -> Result<Option<&Place>, String> {
    let mut of_level = found.iter().filter(|place| place.engine.level == level);
    let Some(first) = of_level.next() else {
        return Ok(None);
    };
    match of_level.find(|p| (p.index, p.count) != (first.index, first.count)) {
        None => Ok(Some(first)),
        Some(other) => Err(format!(
            "two engines contradict each other: {} and {}",
            first.describe(),
            other.describe()
        )),
    }
}

/// Checks the number of shards against the user's own.
///
/// # Errors
/// Fails if `FLOWGAUGE_SHARDS` is set and another number.
fn check_given_number(
    used: &[&Place],
    count: u64,
    value: &dyn Fn(&str) -> Option<String>,
) -> Result<(), String> {
    let mut variables = Variables {
        value,
        read: Vec::new(),
    };
    let counted = |place: &&&Place| place.engine.places == Places::Unknown;
    match variables.number(COUNT_VARIABLE)? {
        // It is the number of one engine's places, and others multiply it.
        Some(_) if used.iter().any(|place| counted(&place)) => Ok(()),
        Some(told) if told != count => {
            let words: Vec<String> = used.iter().map(|place| place.describe()).collect();
            Err(format!(
                "{COUNT_VARIABLE}={told} contradicts the {count} shards of {}",
                words.join(" × ")
            ))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The answer for an environment, written as `NAME=value NAME=value`.
    fn found(environment: &str) -> Result<FoundShard, String> {
        let pairs: Vec<(&str, &str)> = environment
            .split_whitespace()
            .map(|pair| pair.split_once('=').expect("NAME=value"))
            .collect();
        shard_of_environment(&|name| {
            let pair = pairs.iter().find(|(known, _)| *known == name);
            pair.map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn each_engine_tells_the_place() {
        let cases = [
            (
                "SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=0 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_STEP=1 SLURM_ARRAY_TASK_COUNT=8",
                "4/8",
                "Slurm array",
            ),
            (
                "SLURM_ARRAY_TASK_ID=7 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_STEP=3 SLURM_ARRAY_TASK_COUNT=3",
                "3/3",
                "Slurm array",
            ),
            // A batch script has a rank too, which is nobody's.
            (
                "SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=4 SLURM_PROCID=0 SLURM_NTASKS=4",
                "2/4",
                "Slurm array",
            ),
            (
                "SLURM_PROCID=2 SLURM_STEP_NUM_TASKS=4 SLURM_NTASKS=4",
                "3/4",
                "srun",
            ),
            (
                "SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=3 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2",
                "4/6",
                "Slurm array (SLURM_ARRAY_TASK_ID=2, SLURM_ARRAY_TASK_MIN=1, SLURM_ARRAY_TASK_MAX=3) × srun (SLURM_PROCID=1, SLURM_STEP_NUM_TASKS=2)",
            ),
            (
                "OMPI_COMM_WORLD_RANK=0 OMPI_COMM_WORLD_SIZE=4 PMIX_RANK=0",
                "1/4",
                "Open MPI",
            ),
            // `mpirun` starts a daemon on each node by `srun`.
            (
                "OMPI_COMM_WORLD_RANK=5 OMPI_COMM_WORLD_SIZE=8 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2",
                "6/8",
                "Open MPI",
            ),
            ("PMI_RANK=3 PMI_SIZE=4", "4/4", "PMI"),
            (
                "PMI_RANK=1 PMI_SIZE=4 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=4",
                "2/4",
                "PMI",
            ),
            (
                "PMIX_RANK=1 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=4",
                "2/4",
                "srun",
            ),
            ("PMIX_RANK=1 FLOWGAUGE_SHARDS=4", "2/4", "PMIx"),
            ("RANK=1 WORLD_SIZE=2", "2/2", "torchrun"),
            (
                "JOB_COMPLETION_INDEX=0 FLOWGAUGE_SHARDS=5",
                "1/5",
                "Kubernetes Indexed Job",
            ),
            (
                "JOB_COMPLETION_INDEX=2 FLOWGAUGE_SHARDS=5 RANK=1 WORLD_SIZE=2",
                "6/10",
                "× torchrun",
            ),
            (
                "PBS_ARRAY_INDEX=3 FLOWGAUGE_SHARDS=3 FLOWGAUGE_FIRST=1",
                "3/3",
                "PBS array",
            ),
            (
                "LSB_JOBINDEX=4 LSB_JOBINDEX_END=4 LSB_JOBINDEX_STEP=1",
                "4/4",
                "LSF array",
            ),
            (
                "LSB_JOBINDEX=0 LSB_JOBINDEX_END=0 RANK=0 WORLD_SIZE=1",
                "1/1",
                "torchrun",
            ),
            (
                "SGE_TASK_ID=10 SGE_TASK_FIRST=2 SGE_TASK_LAST=10 SGE_TASK_STEPSIZE=2",
                "5/5",
                "Grid Engine array",
            ),
            (
                "SGE_TASK_ID=undefined RANK=0 WORLD_SIZE=1",
                "1/1",
                "torchrun",
            ),
            // The worker of HyperQueue is a task of Slurm, and its tasks inherit that.
            (
                "HQ_TASK_ID=6 FLOWGAUGE_SHARDS=8 SLURM_PROCID=1 SLURM_STEP_NUM_TASKS=2",
                "7/8",
                "HyperQueue",
            ),
        ];
        for (environment, shard, source) in cases {
            let answer = found(environment).expect(environment);
            assert_eq!(answer.shard.to_string(), shard, "{environment}");
            assert!(answer.source.contains(source), "{environment}: {answer:?}");
        }
    }

    #[test]
    fn contradictions_and_gaps_are_refused() {
        let cases = [
            ("", "no engine started this process"),
            // Outside a step of `srun` the rank says nothing.
            (
                "SLURM_PROCID=0 SLURM_NTASKS=4",
                "no engine started this process",
            ),
            (
                "OMPI_COMM_WORLD_RANK=4 OMPI_COMM_WORLD_SIZE=4",
                "OMPI_COMM_WORLD_RANK=4",
            ),
            (
                "OMPI_COMM_WORLD_RANK=one OMPI_COMM_WORLD_SIZE=4",
                "OMPI_COMM_WORLD_RANK=one is no whole number",
            ),
            ("RANK=-1 WORLD_SIZE=4", "RANK=-1 is no whole number"),
            ("RANK=0 WORLD_SIZE=0", "contradict one another"),
            ("PMI_RANK=0", "PMI_SIZE is not"),
            ("RANK=0", "WORLD_SIZE is not"),
            ("JOB_COMPLETION_INDEX=3", "FLOWGAUGE_SHARDS is not"),
            (
                "JOB_COMPLETION_INDEX=3 FLOWGAUGE_SHARDS=3",
                "JOB_COMPLETION_INDEX=3",
            ),
            (
                "JOB_COMPLETION_INDEX=3 FLOWGAUGE_SHARDS=4x",
                "FLOWGAUGE_SHARDS=4x",
            ),
            (
                "RANK=0 WORLD_SIZE=2 PMI_RANK=1 PMI_SIZE=2",
                "two engines contradict each other",
            ),
            (
                "RANK=0 WORLD_SIZE=2 PMI_RANK=0 PMI_SIZE=4",
                "two engines contradict each other",
            ),
            (
                "JOB_COMPLETION_INDEX=1 PBS_ARRAY_INDEX=2 FLOWGAUGE_SHARDS=4",
                "two engines contradict each other",
            ),
            (
                "RANK=0 WORLD_SIZE=2 FLOWGAUGE_SHARDS=4",
                "FLOWGAUGE_SHARDS=4 contradicts the 2 shards",
            ),
            (
                "SLURM_ARRAY_TASK_ID=3 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_STEP=1 SLURM_ARRAY_TASK_COUNT=3",
                "the array has gaps",
            ),
            (
                "SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=1 SLURM_ARRAY_TASK_MAX=7 SLURM_ARRAY_TASK_STEP=2",
                "contradict one another",
            ),
            (
                "SLURM_ARRAY_TASK_ID=2 SLURM_ARRAY_TASK_MIN=4 SLURM_ARRAY_TASK_MAX=3",
                "are none",
            ),
            ("SLURM_ARRAY_TASK_ID=2", "SLURM_ARRAY_TASK_MIN is not"),
            (
                "SGE_TASK_ID=1 SGE_TASK_FIRST=1 SGE_TASK_LAST=4 SGE_TASK_STEPSIZE=0",
                "are none",
            ),
            ("RANK=0 WORLD_SIZE=99999999", "too many"),
        ];
        for (environment, words) in cases {
            let message = found(environment).expect_err(environment);
            assert!(message.contains(words), "{environment}: {message}");
            assert!(message.starts_with("--shard auto: "), "{message}");
            assert!(message.contains("--shard I/N"), "{message}");
        }
    }

    #[test]
    fn names_that_hide_others_are_names_of_engines() {
        for engine in ENGINES {
            for hidden in engine.hides {
                assert!(ENGINES.iter().any(|e| e.name == *hidden), "{hidden}");
            }
        }
    }
}
