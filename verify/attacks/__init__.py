# SPDX-License-Identifier: Apache-2.0
"""Attacks on the deployed net; everything they find is run on the engine itself. One file an attack.

    suite      which attacks run, in which order, on which samples, and what each achieved
    pgd        the papers' PGD, for comparison
    targeted   margin-loss PGD on the annealed l_p surrogate, from many starts
    autoattack APGD-CE, APGD-T and FAB-T, of AutoAttack's standard version; see apgd and fab
    square     Square search on the engine, a black box; the fourth of AutoAttack's standard version
    rounding   whole-number moves along the paths that attain the logits, and whole boxes where they are small
    noise      random images of the box
    sanity     whether the attacks are worth their name

At p = inf each logit moves with one pixel alone: sign gradients starve. So the gradient attacks follow the l_p
surrogate, the relaxation that training uses, and every point of theirs is judged rounded to uint8 and at p = inf.
"""

from linfdeploy.verify.attacks.attempt import Attempt
from linfdeploy.verify.attacks.plan import ATTACKS, AttackPlan
from linfdeploy.verify.attacks.suite import AttackResult, Victim, run_attack
from linfdeploy.verify.attacks.twin import Twin

__all__ = ["ATTACKS", "AttackPlan", "AttackResult", "Attempt", "Twin", "Victim", "run_attack"]
