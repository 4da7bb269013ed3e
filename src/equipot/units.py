"""Physical constants and the few conversions, from one source.

Inside equipot lengths are Å, energies eV, times fs, masses u, temperatures K; pressures are eV/Å³ inside and GPa
where a person reads or types them. The constants are CODATA 2014 (Mohr, Newell, Taylor, Rev. Mod. Phys. 88, 035009),
the set ASE uses, so that a step taken here and a step taken by ASE are the same step.
"""

from __future__ import annotations

from math import sqrt

ELEMENTARY_CHARGE_C = 1.6021766208e-19
ATOMIC_MASS_KG = 1.660539040e-27
BOLTZMANN_J_PER_K = 1.38064852e-23
AVOGADRO_PER_MOL = 6.022140857e23

#: Boltzmann's constant, eV/K
KB_EV_PER_K = BOLTZMANN_J_PER_K / ELEMENTARY_CHARGE_C

#: 1 u Å²/fs² in eV: kinetic energy is 0.5 * EV_PER_U_ANG2_PER_FS2 * mass_u * velocity_ang_per_fs**2
EV_PER_U_ANG2_PER_FS2 = ATOMIC_MASS_KG * 1e10 / ELEMENTARY_CHARGE_C

#: acceleration in Å/fs² of 1 u under 1 eV/Å
ANG_PER_FS2_PER_EV_PER_ANG_U = 1.0 / EV_PER_U_ANG2_PER_FS2

#: 1 eV/Å³ in GPa
GPA_PER_EV_PER_ANG3 = ELEMENTARY_CHARGE_C * 1e30 * 1e-9

#: ASE's unit of time, Å sqrt(u/eV), in fs
ASE_TIME_FS = sqrt(ATOMIC_MASS_KG / ELEMENTARY_CHARGE_C) * 1e5

#: the Bohr radius in Å
ANG_PER_BOHR = 0.52917721067

#: the speed of light in cm/fs: a frequency in 1/fs divided by it is a wavenumber in cm⁻¹
SPEED_OF_LIGHT_CM_PER_FS = 2.99792458e-5
