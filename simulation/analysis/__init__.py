"""What is asked of a run once it is there: time series, structure, transport, vibrations. No torch.

Every function takes a run's folder, a trajectory file, frames or ASE Atoms, and gives a frozen result with `summary()`,
`columns()`, `plot(path)`, `to_csv(path)` and `to_json(path)`.
"""

from equipot.simulation.analysis.displacements import DisplacementParameters, displacement_parameters
from equipot.simulation.analysis.msd import Diffusion, MeanSquareDisplacement, mean_square_displacement
from equipot.simulation.analysis.rdf import RadialDistribution, radial_distribution
from equipot.simulation.analysis.result import Analysis
from equipot.simulation.analysis.statistics import Mean, settled_mean
from equipot.simulation.analysis.timeseries import TimeSeries, time_series
from equipot.simulation.analysis.track import Track
from equipot.simulation.analysis.vibrations import (
    VelocityAutocorrelation,
    VibrationalSpectrum,
    velocity_autocorrelation,
    vibrational_density_of_states,
)

__all__ = [
    "Analysis",
    "Diffusion",
    "DisplacementParameters",
    "Mean",
    "MeanSquareDisplacement",
    "RadialDistribution",
    "TimeSeries",
    "Track",
    "VelocityAutocorrelation",
    "VibrationalSpectrum",
    "displacement_parameters",
    "mean_square_displacement",
    "radial_distribution",
    "settled_mean",
    "time_series",
    "velocity_autocorrelation",
    "vibrational_density_of_states",
]
