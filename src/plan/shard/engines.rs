//! The engines that start many processes, and the variables by which each tells a process its place.
//!
//! An array is what a scheduler starts, one task for each of its indices. A launcher such as `srun`
//! or `mpirun` starts the ranks inside one task. A process may be in both: then its place is the
//! array's place times the number of ranks, plus its rank.

/// The variable by which a user gives the number of processes, for engines that do not tell it.
pub(super) const COUNT_VARIABLE: &str = "FLOWGAUGE_SHARDS";
/// The variable by which a user gives the first index of an array, for engines that do not tell it.
pub(super) const FIRST_VARIABLE: &str = "FLOWGAUGE_FIRST";

/// Whether an engine starts the tasks of an array, or the ranks inside one task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Level {
    Array,
    Ranks,
}

/// How an engine tells how many places there are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Places {
    /// A variable has their number, and they are counted from 0.
    Number(&'static str),
    /// Variables have the first index, the last one and the distance of two. If the variable
    /// `number` is set, it has the number of indices.
    Bounds {
        first: &'static str,
        last: &'static str,
        step: &'static str,
        number: Option<&'static str>,
    },
    /// Variables have the last index and the distance of two. The first index is the one of
    /// `FLOWGAUGE_FIRST`, or 1.
    LastAndStep {
        last: &'static str,
        step: &'static str,
    },
    /// The engine does not tell it: `FLOWGAUGE_SHARDS` has their number, and `FLOWGAUGE_FIRST` the
    /// first index if it is not 0.
    Unknown,
}

/// One engine.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Engine {
    /// The name, for messages.
    pub name: &'static str,
    /// What the engine starts.
    pub level: Level,
    /// The variable with the index of the process.
    pub index: &'static str,
    /// How many places there are.
    pub places: Places,
    /// Variables of which at least one must be set, as the engine sets `index` elsewhere too.
    pub only_with: &'static [&'static str],
    /// Values of the index that mean that the process is in no array.
    pub no_index: &'static [&'static str],
    /// The engines whose variables do not count if this one is found, because they belong to the
    /// program that starts the processes and not to the processes.
    pub hides: &'static [&'static str],
}

/// What most engines have.
const PLAIN: Engine = Engine {
    name: "",
    level: Level::Array,
    index: "",
    places: Places::Unknown,
    only_with: &[],
    no_index: &[],
    hides: &[],
};

/// Every engine.
pub(super) const ENGINES: &[Engine] = &[
    Engine {
        name: "HyperQueue",
        index: "HQ_TASK_ID",
        // A worker may itself be a task of Slurm or PBS.
        hides: &["Slurm array", "srun", "PBS array"],
        ..PLAIN
    },
    Engine {
        name: "Slurm array",
        index: "SLURM_ARRAY_TASK_ID",
        places: Places::Bounds {
            first: "SLURM_ARRAY_TASK_MIN",
            last: "SLURM_ARRAY_TASK_MAX",
            step: "SLURM_ARRAY_TASK_STEP",
            number: Some("SLURM_ARRAY_TASK_COUNT"),
        },
        ..PLAIN
    },
    Engine {
        name: "Kubernetes Indexed Job",
        index: "JOB_COMPLETION_INDEX",
        ..PLAIN
    },
    Engine {
        name: "PBS array",
        index: "PBS_ARRAY_INDEX",
        ..PLAIN
    },
    Engine {
        name: "LSF array",
        index: "LSB_JOBINDEX",
        places: Places::LastAndStep {
            last: "LSB_JOBINDEX_END",
            step: "LSB_JOBINDEX_STEP",
        },
        // LSF sets it to 0 in jobs that are no array.
        no_index: &["0"],
        ..PLAIN
    },
    Engine {
        name: "Grid Engine array",
        index: "SGE_TASK_ID",
        places: Places::Bounds {
            first: "SGE_TASK_FIRST",
            last: "SGE_TASK_LAST",
            step: "SGE_TASK_STEPSIZE",
            number: None,
        },
        no_index: &["undefined"],
        ..PLAIN
    },
    Engine {
        name: "Open MPI",
        level: Level::Ranks,
        index: "OMPI_COMM_WORLD_RANK",
        places: Places::Number("OMPI_COMM_WORLD_SIZE"),
        // Inside an allocation `mpirun` starts its daemons by `srun`.
        hides: &["srun", "PMIx"],
        ..PLAIN
    },
    Engine {
        name: "PMI",
        level: Level::Ranks,
        index: "PMI_RANK",
        places: Places::Number("PMI_SIZE"),
        ..PLAIN
    },
    Engine {
        name: "torchrun",
        level: Level::Ranks,
        index: "RANK",
        places: Places::Number("WORLD_SIZE"),
        ..PLAIN
    },
    Engine {
        name: "srun",
        level: Level::Ranks,
        index: "SLURM_PROCID",
        places: Places::Number("SLURM_STEP_NUM_TASKS"),
        // A batch script that `srun` did not start has the rank 0 too.
        only_with: &["SLURM_STEP_NUM_TASKS"],
        hides: &["PMIx"],
        ..PLAIN
    },
    Engine {
        name: "PMIx",
        level: Level::Ranks,
        index: "PMIX_RANK",
        ..PLAIN
    },
];
