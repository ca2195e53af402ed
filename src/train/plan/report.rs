//! A plan in words.

use std::fmt;

use crate::duration::in_words;
use crate::error::counted;
use crate::memory::{in_gib, in_mib};
use crate::train::plan::Plan;
use crate::train::plan::device::MemoryOf;
use crate::train::plan::timing::StepTiming;

impl fmt::Display for Plan {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.write_settings(f)?;
        self.write_memory(f)?;
        self.write_length(f)?;
        match &self.timing {
            Some(timing) => self.write_times(f, timing),
            None => Ok(()),
        }
    }
}

impl Plan {
    fn write_settings(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let device = &self.device;
        writeln!(f, "device           {}", device.name)?;
        write!(f, "                 ")?;
        match (device.memory_bytes, device.memory_of) {
            (Some(bytes), Some(MemoryOf::Machine)) if device.has_pools => {
                write!(f, "shares the machine's memory, {}", in_gib(bytes))?;
            }
            (Some(bytes), _) => write!(f, "{} of memory", in_gib(bytes))?,
            (None, _) if device.has_pools => {
                write!(f, "its driver does not say how much memory it has")?;
            }
            (None, _) => write!(f, "the system does not say how much memory there is")?,
        }
        match device.tensor_bytes {
            Some(bytes) => writeln!(f, "; one tensor has at most {}", in_mib(bytes))?,
            None => writeln!(f)?,
        }
        writeln!(
            f,
            "parameters       {:.1} M of the student, {:.1} M of the teacher",
            self.parameters.student() as f64 / 1e6,
            self.parameters.teacher() as f64 / 1e6
        )?;
        let choice = &self.choice;
        write!(f, "batch            {}", counted(self.batch_size, "image"))?;
        match choice.micro_batch_size {
            Some(size) if size < self.batch_size => {
                let parts = self.batch_size.div_ceil(size);
                write!(f, " in {parts} parts (`micro_batch_size` {size})")?;
            }
            _ => write!(f, " at once")?,
        }
        let checkpointing = if choice.grad_checkpointing {
            "with `grad_checkpointing`"
        } else {
            "without gradient checkpointing"
        };
        writeln!(f, ", {checkpointing}")?;
        write!(f, "                 {}", choice.reason)?;
        match choice.relative_cost {
            ..=1.0 => writeln!(f),
            cost => writeln!(f, " (about {cost:.2} times the work)"),
        }
    }

    fn write_memory(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (memory, peak) = (&self.memory, self.memory.peak);
        let (bytes, moment) = (in_mib(memory.peak_bytes), memory.moment);
        writeln!(
            f,
            "memory           {bytes} in tensors at most, in {moment}:"
        )?;
        for (what, bytes) in [
            ("student", peak.student),
            ("teacher", peak.teacher),
            ("optimizer", peak.optimizer),
            ("images", peak.views),
            ("teacher's logits", peak.targets),
            ("kept for backward", peak.activations),
            ("gradients", peak.gradients),
            ("workspace", peak.workspace),
        ] {
            writeln!(f, "  {what:<22} {:>12}", in_mib(bytes))?;
        }
        let largest = memory.largest;
        writeln!(
            f,
            "largest tensor   {}, {}",
            in_mib(largest.bytes),
            largest.what
        )?;
        let [batches, images, copy] = [
            memory.batches_bytes,
            memory.images_bytes,
            memory.checkpoint_copy_bytes,
        ];
        writeln!(
            f,
            "processor        {} of batches that wait, up to {} of decoded images, {} while a checkpoint is written",
            in_mib(batches),
            in_mib(images),
            in_mib(copy)
        )?;
        let needed = in_gib(memory.needed_bytes);
        let with = match (self.device.has_pools, self.device.is_shared) {
            (true, true) => ", with what wgpu's pools and the processor keep",
            (true, false) => ", with what wgpu's pools keep",
            (false, _) => ", with what the program keeps",
        };
        let fits = if self.verdict.may_run() {
            ""
        } else {
            "DOES NOT FIT: "
        };
        let verdict = self.verdict.in_words();
        writeln!(f, "needed           {needed}{with}: {fits}{verdict}")
    }

    fn write_length(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let length = self.length;
        let checkpoint = in_mib(self.checkpoint_bytes);
        writeln!(f, "a checkpoint     {checkpoint} on disk")?;
        write!(
            f,
            "run              {} of {} images, in epochs of {}: {}",
            counted(length.steps, "step"),
            self.batch_size,
            length.steps_per_epoch,
            counted(length.epochs, "epoch"),
        )?;
        match length.made {
            0 => Ok(()),
            made => write!(f, "; {} made", counted(made, "step")),
        }
    }

    fn write_times(&self, f: &mut fmt::Formatter<'_>, timing: &StepTiming) -> fmt::Result {
        write!(
            f,
            "\ntime             {} a step ({} timed, {} to {})",
            in_words(timing.step_s),
            timing.steps,
            in_words(timing.fastest_s),
            in_words(timing.slowest_s)
        )?;
        match timing.data_wait_s {
            Some(wait) => writeln!(f, ", of which {} are a wait for images", in_words(wait))?,
            None => writeln!(f, ", on random images: loading is not in it")?,
        }
        let of = |time: Option<f64>| in_words(time.unwrap_or(f64::NAN));
        write!(
            f,
            "                 {} an epoch, {} {}, without evaluations",
            of(self.epoch_s()),
            of(self.run_s()),
            match self.length.made {
                0 => "the whole run",
                _ => "the rest of the run",
            }
        )?;
        if let Some(gpu) = timing.gpu {
            let reserved = gpu.reserved_mib;
            write!(
                f,
                "\nmeasured         {reserved:.0} MiB taken from the driver"
            )?;
        } else if let Some(peak) = timing.peak_rss_mib {
            write!(f, "\nmeasured         {peak:.0} MiB of the process at most")?;
        }
        Ok(())
    }
}
