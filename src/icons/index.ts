/**
 * The mark of mlbench, in the colour that JupyterLab gives it.
 */

import { LabIcon } from '@jupyterlab/ui-components';

import mark from '../../style/icons/mlbench.svg';

export const mlbenchIcon = new LabIcon({ name: 'mlbench:mark', svgstr: mark });
