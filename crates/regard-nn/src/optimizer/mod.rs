//! AdamW in one pass over memory, with clipping; Muon for the matrices that shall have it.

mod muon;
mod update;

use std::collections::{BTreeMap, BTreeSet};

use burn::module::{Module, ModuleMapper, ModuleVisitor, Param};
use burn::tensor::{Gradients, Tensor, TensorData};
use rayon::prelude::*;

use crate::parameters::{NamedTensor, Path};
use muon::Turn;
use update::{Factors, sum_of_squares, update};

/// The numbers of [`AdamW`].
#[derive(Clone, Debug, PartialEq)]
pub struct AdamWConfig {
    /// How much of the mean gradient is kept from step to step.
    pub beta1: f32,
    /// How much of the mean squared gradient is kept.
    pub beta2: f32,
    /// Added to the root of the mean squared gradient.
    pub epsilon: f32,
    /// Share of a parameter that decays per step and learning rate. Parameters of one axis (biases, norms) do not decay.
    pub weight_decay: f64,
    /// Longest gradient, over all parameters together; longer ones are scaled down to it.
    pub clip_norm: Option<f32>,
}

impl Default for AdamWConfig {
    /// β 0.9 and 0.98 (Vaswani et al. 2017), which forgets faster than 0.999: runs here have hundreds of steps, not
    /// hundreds of thousands.
    fn default() -> Self {
        Self {
            beta1: 0.9,
            beta2: 0.98,
            epsilon: 1e-8,
            weight_decay: 0.01,
            clip_norm: None,
        }
    }
}

/// What a step found.
#[derive(Clone, Debug, PartialEq)]
pub struct StepFacts {
    /// Length of the gradient over all parameters, before clipping.
    pub gradient_norm: f32,
    /// Path of the first parameter whose gradient is not finite; nothing was changed then.
    pub non_finite: Option<String>,
}

/// Adam with decoupled weight decay (Loshchilov & Hutter 2019):
///
/// ```text
/// m ← β₁ m + (1 − β₁) g          v ← β₂ v + (1 − β₂) g²
/// p ← p − rate · (decay · p + m / (1 − β₁ᵗ) / (√(v / (1 − β₂ᵗ)) + ε))
/// ```
///
/// On the CPU it changes parameters and moments in place, in tasks of fixed size: the result does not depend on the
/// number of threads. The state is keyed by parameter path, so it can be saved and restored.
#[derive(Clone, Debug)]
pub struct AdamW {
    config: AdamWConfig,
    steps: u64,
    moments: BTreeMap<String, Moments>,
    matrices: BTreeSet<String>,
}

/// The means of a parameter's gradient and of its square, flat; Muon needs no squares.
#[derive(Clone, Debug)]
struct Moments {
    first: Tensor<1>,
    second: Option<Tensor<1>>,
    shape: Vec<usize>,
}

impl AdamW {
    /// An optimizer that has not seen a gradient.
    pub fn new(config: AdamWConfig) -> Self {
        Self {
            config,
            steps: 0,
            moments: BTreeMap::new(),
            matrices: BTreeSet::new(),
        }
    }

    /// Muon instead, for the parameters of two axes with these paths (Jordan et al. 2024, "Muon: An optimizer for hidden
    /// layers"; its size beside AdamW's is that of Liu et al. 2025, so that both share a learning rate):
    ///
    /// ```text
    /// m ← 0.95 m + 0.05 g
    /// p ← p − rate · (decay · p + 0.2 √(longer side) · U Vᵀ),   U S Vᵀ = 0.95 m + 0.05 g
    /// ```
    ///
    /// It is meant for the matrices inside a network; tables of vectors and the last map stay with AdamW.
    pub fn with_muon(self, matrices: BTreeSet<String>) -> Self {
        Self { matrices, ..self }
    }

    /// Steps done.
    pub fn steps(&self) -> u64 {
        self.steps
    }

    /// One step. Parameters without a gradient stay as they are. To be in place, `model` must be the only owner of its
    /// parameters: a clone that is still alive costs a copy.
    pub fn step<M: Module>(
        &mut self,
        model: M,
        gradients: Gradients,
        learning_rate: f64,
    ) -> (M, StepFacts) {
        let mut collector = Collector {
            path: Path::default(),
            gradients,
            found: BTreeMap::new(),
            order: Vec::new(),
        };
        model.visit(&mut collector);
        let Collector {
            found,
            order,
            gradients,
            ..
        } = collector;
        drop(gradients);
        // A fixed order: the sum of squares is the same bits every time.
        let mut squares = 0.0_f64;
        let mut non_finite = None;
        for name in &order {
            let square = sum_of_squares(&found[name].values);
            squares += square;
            if !square.is_finite() && non_finite.is_none() {
                non_finite = Some(name.clone());
            }
        }
        let norm = squares.sqrt();
        let facts = StepFacts {
            gradient_norm: norm as f32,
            non_finite,
        };
        if facts.non_finite.is_some() {
            return (model, facts);
        }
        self.steps += 1;
        let clip = self
            .config
            .clip_norm
            .map_or(1.0, |longest| (f64::from(longest) / (norm + 1e-6)).min(1.0));
        let clip = clip as f32;
        let mut stepper = Stepper {
            path: Path::default(),
            turns: self.turns(&found, clip),
            found,
            moments: &mut self.moments,
            config: &self.config,
            steps: self.steps as i32,
            rate: learning_rate,
            clip,
        };
        (model.map(&mut stepper), facts)
    }

    /// Muon's directions, one matrix a thread: most are too small to be shared between threads.
    fn turns(&self, found: &BTreeMap<String, Gradient>, clip: f32) -> BTreeMap<String, Turn> {
        let turn = |name: &String| {
            let Gradient { values, shape } = found.get(name)?;
            let sides: [usize; 2] = shape.as_slice().try_into().ok()?;
            let mean = match self.moments.get(name) {
                // State that was restored lies on the CPU until it is first used.
                Some(moments) if moments.shape == *shape => {
                    moments.first.clone().to_device(&values.device())
                }
                _ => values.zeros_like(),
            };
            let [g, mean] = [values.clone() * clip, mean].map(|flat| flat.reshape(sides));
            Some((name.clone(), Turn::new(g, mean)))
        };
        let names: Vec<&String> = self.matrices.iter().collect();
        names
            .into_par_iter()
            .with_max_len(1)
            .filter_map(turn)
            .collect()
    }

    /// The moments of every parameter that has had a gradient: `first.<path>` and, but for Muon's, `second.<path>`.
    pub fn state(&self) -> Vec<NamedTensor> {
        let named = |kind: &str, name: &str, tensor: &Tensor<1>, shape: &[usize]| NamedTensor {
            name: format!("{kind}.{name}"),
            shape: shape.to_vec(),
            values: tensor.to_data().iter::<f32>().collect(),
        };
        let both = self.moments.iter().flat_map(|(name, moments)| {
            let first = named("first", name, &moments.first, &moments.shape);
            let second = moments.second.as_ref();
            let second = second.map(|second| named("second", name, second, &moments.shape));
            std::iter::once(first).chain(second)
        });
        both.collect()
    }

    /// Takes up what [`state`](Self::state) gave after `steps` steps. A name of another kind is ignored.
    pub fn restore(&mut self, state: Vec<NamedTensor>, steps: u64) {
        self.steps = steps;
        self.moments.clear();
        let device = burn::tensor::Device::flex();
        let flat = |values: Vec<f32>| {
            let length = values.len();
            Tensor::<1>::from_data(TensorData::new(values, [length]), &device)
        };
        let mut firsts = BTreeMap::new();
        let mut seconds = BTreeMap::new();
        for tensor in state {
            if let Some(name) = tensor.name.strip_prefix("first.") {
                firsts.insert(name.to_owned(), tensor);
            } else if let Some(name) = tensor.name.strip_prefix("second.") {
                seconds.insert(name.to_owned(), tensor.values);
            }
        }
        for (name, first) in firsts {
            let moments = Moments {
                first: flat(first.values),
                second: seconds.remove(&name).map(flat),
                shape: first.shape,
            };
            self.moments.insert(name, moments);
        }
    }
}

/// The gradient of a parameter.
struct Gradient {
    values: Tensor<1>,
    shape: Vec<usize>,
}

/// Takes the gradients out by path.
struct Collector {
    path: Path,
    gradients: Gradients,
    found: BTreeMap<String, Gradient>,
    order: Vec<String>,
}

impl ModuleVisitor for Collector {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val();
        if let Some(gradient) = tensor.grad_remove(&mut self.gradients) {
            let shape = gradient.dims().to_vec();
            let values = gradient.reshape([shape.iter().product::<usize>()]);
            self.order.push(self.path.name());
            self.found
                .insert(self.path.name(), Gradient { values, shape });
        }
    }
}

/// Applies the step to each parameter.
struct Stepper<'a> {
    path: Path,
    found: BTreeMap<String, Gradient>,
    turns: BTreeMap<String, Turn>,
    moments: &'a mut BTreeMap<String, Moments>,
    config: &'a AdamWConfig,
    steps: i32,
    rate: f64,
    clip: f32,
}

impl Stepper<'_> {
    /// In double precision, because 1 − β₂ᵗ is a small difference at the first steps.
    fn factors(&self, decays: bool) -> Factors {
        let (beta1, beta2) = (f64::from(self.config.beta1), f64::from(self.config.beta2));
        let decay = if decays {
            self.config.weight_decay
        } else {
            0.0
        };
        Factors {
            clip: self.clip,
            beta1: self.config.beta1,
            beta2: self.config.beta2,
            keep: (1.0 - self.rate * decay) as f32,
            rate: (self.rate / (1.0 - beta1.powi(self.steps))) as f32,
            root: (1.0 / (1.0 - beta2.powi(self.steps)).sqrt()) as f32,
            epsilon: self.config.epsilon,
        }
    }
}

impl ModuleMapper for Stepper<'_> {
    fn enter_module(&mut self, name: &str, _container: &str) {
        self.path.enter(name);
    }

    fn exit_module(&mut self, _name: &str, _container: &str) {
        self.path.exit();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.name();
        let Some(gradient) = self.found.remove(&name) else {
            return param;
        };
        let factors = self.factors(D > 1);
        let turn = self.turns.remove(&name);
        let rate = self.rate;
        let moments = self.moments.remove(&name);
        let mut kept = None;
        let param = param.map(|tensor| {
            let strategy = tensor.gradient_checkpointing_strategy();
            let tensor = tensor.inner();
            let device = tensor.device();
            let shape = tensor.dims();
            let length = shape.iter().product::<usize>();
            let moments = moments.filter(|moments| moments.shape == shape);
            let (first, second) = moments.map_or((None, None), |moments| {
                (Some(moments.first), moments.second)
            });
            // State that was restored lies on the CPU until it is first used.
            let moment = |moment: Option<Tensor<1>>| match moment {
                Some(moment) => moment.to_device(&device),
                None => Tensor::zeros([length], &device),
            };
            let p = tensor.reshape([length]);
            let (tensor, first, second) = match turn {
                Some(turn) => {
                    let [p, mean] = turn.step(p, rate, factors.keep);
                    (p, mean, None)
                }
                None => {
                    let (first, second) = (moment(first), moment(second));
                    let (p, first, second) = update(p, gradient.values, first, second, &factors);
                    (p, first, Some(second))
                }
            };
            kept = Some(Moments {
                first,
                second,
                shape: shape.to_vec(),
            });
            let tensor = Tensor::from_inner(tensor.reshape(shape));
            match strategy {
                Some(strategy) => tensor.with_gradient_checkpointing_strategy(strategy),
                None => tensor,
            }
            .require_grad()
        });
        if let Some(kept) = kept {
            self.moments.insert(name, kept);
        }
        param
    }
}
